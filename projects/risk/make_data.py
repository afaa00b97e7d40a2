"""Writes the synthetic risk reports: the same bytes every time.

python projects/risk/make_data.py [FOLDER]      # default: the data folder beside this file
"""

from __future__ import annotations

import csv
import json
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

T = TypeVar("T")

SEED = 20240520
NUM_ROWS = 600
NOISE_SHARE = 0.04
"""Share of the labels, column by column, that are drawn anew, as if an annotator had slipped."""

RISK_LEVELS = ("低风险", "中风险", "高风险")
ADOPTED = ("采纳", "不采纳")
CHANNELS = ("电话", "邮件", "系统")

OPENINGS = {
    "电话": ("客户经理来电称", "热线接到反映，", "据电话回访，", "网点致电说明"),
    "邮件": ("来函写明", "附件材料显示，", "收件内容提到", "据书面回复，"),
    "系统": ("监测规则命中：", "自动预警提示", "批量比对发现", "日终核对显示，"),
}
SHARED_OPENINGS = ("现已核实，", "业务部门上报：", "经初步了解，")
SUBJECTS = ("供应商", "经销商", "贸易公司", "小微商户", "物流承运方", "外包服务商", "制造企业", "租赁客户")
EVENTS = (
    ("联系电话已变更，档案尚未更新", 0),
    ("合同附件缺少一页签字", 0),
    ("发票抬头与合同名称略有出入", 0),
    ("对账单晚寄了几天", 0),
    ("上月货款逾期未付", 1),
    ("连续两次延迟交货", 1),
    ("法定代表人近期发生变更", 1),
    ("质检抽样不合格率上升", 1),
    ("主要账户被法院冻结", 2),
    ("涉嫌使用虚假合同融资", 2),
    ("实际控制人失去联系", 2),
    ("核心系统客户信息外泄", 2),
)
CIRCUMSTANCES = (
    ("，金额不大", -0.6),
    ("，对方已书面承诺整改", -0.6),
    ("，历史记录良好", -0.3),
    ("，涉及金额{amount}万元", 0.0),
    ("，目前仍在跟进", 0.0),
    ("，同类问题今年已出现{times}次", 0.5),
    ("，且担保不足", 0.6),
    ("，已影响其他客户", 0.7),
)
PROPOSALS = (
    ("；建议登记备案", 0),
    ("；建议提醒经办人补正", 0),
    ("；建议约谈并限期整改", 1),
    ("；建议下调授信额度", 1),
    ("；建议立即暂停合作", 2),
    ("；建议移交法务追偿", 2),
)
REASONS = ("", "，依据充分", "，已附证明", "，暂无证据", "，理由较为笼统")
REASON_WEIGHT = {"，依据充分": 0.5, "，已附证明": 0.5, "，暂无证据": -0.7, "，理由较为笼统": -0.5}


class Report(NamedTuple):
    text: str
    risk_level: str
    is_adopt: str
    channel: str


class Dice:
    """Draws by `random()` alone: the one method whose numbers Python promises never to change."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random

    def share(self) -> float:
        return self._random()

    def pick(self, choices: Sequence[T]) -> T:
        return choices[int(self._random() * len(choices))]

    def label(self, right: str, choices: Sequence[str]) -> str:
        return self.pick(choices) if self.share() < NOISE_SHARE else right


def report(dice: Dice) -> Report:
    channel = dice.pick(CHANNELS)
    opening = dice.pick(SHARED_OPENINGS if dice.share() < 0.15 else OPENINGS[channel])
    event, severity = dice.pick(EVENTS)
    circumstance, shift = dice.pick(CIRCUMSTANCES)
    proposal, strength = dice.pick(PROPOSALS)
    reason = dice.pick(REASONS)
    details = circumstance.format(amount=5 * (1 + int(dice.share() * 60)), times=2 + int(dice.share() * 4))
    text = f"{opening}{dice.pick(SUBJECTS)}{event}{details}{proposal}{reason}"

    level = min(2, max(0, round(severity + shift)))
    fits = 1 - 0.8 * abs(level - strength) + REASON_WEIGHT.get(reason, 0)
    return Report(
        text,
        dice.label(RISK_LEVELS[level], RISK_LEVELS),
        dice.label(ADOPTED[fits < 0.4], ADOPTED),
        dice.label(channel, CHANNELS),
    )


def different_reports(dice: Dice) -> Iterator[Report]:
    seen: set[str] = set()
    while True:
        drawn = report(dice)
        if drawn.text not in seen:
            seen.add(drawn.text)
            yield drawn


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def write_all(folder: Path) -> None:
    (folder / "raw").mkdir(parents=True, exist_ok=True)
    source = different_reports(Dice(SEED))
    double = [next(source) for _ in range(NUM_ROWS)]
    single = [next(source) for _ in range(NUM_ROWS)]
    write_csv(folder / "raw/train_double_label.csv", Report._fields, double)
    write_csv(
        folder / "raw/train_single_label.csv",
        ("text", "label"),
        [(row.text, row.risk_level) for row in single],
    )
    ids = {label: number for number, label in enumerate((*RISK_LEVELS, *ADOPTED, *CHANNELS))}
    text = json.dumps(ids, ensure_ascii=False, indent=2)
    (folder / "global_label_map.json").write_text(f"{text}\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write_all(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "data")
