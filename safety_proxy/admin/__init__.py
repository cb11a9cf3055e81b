"""The private listener: health, readiness, statistics, metrics."""
