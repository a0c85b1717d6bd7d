"""The Prefect flows and the command: names, tasks, retries, schedules, artifacts. No logic."""
