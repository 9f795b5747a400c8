"""What is measured and remembered about requests: metrics, records, usage, dashboards."""
