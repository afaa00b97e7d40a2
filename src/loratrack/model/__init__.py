"""Networks: the base, its adapters and heads, and how they are kept."""
