# MLflow sources this, then says `conda activate NAME`.
conda() {
    local environment
    environment="$("$LORATRACK_PYTHON" -P -m loratrack.conda_stand_in "$@")" || return 1
    export PATH="$environment/bin:$PATH"
    unset PYTHONHOME
}
