from django.db import migrations

# A job is written once and updated three or four times within seconds, so most of what this table writes is soon dead,
# while its rows are kept for days. PostgreSQL's defaults are for tables of which a small part changes.
SETTINGS = {
    # By default a fifth of all rows must be dead first. With a week's rows kept, the indexes of what is queued and
    # running, through which every claim goes, would be full of dead entries by then.
    "autovacuum_vacuum_scale_factor": "0.01",
    "autovacuum_vacuum_threshold": "2000",
    # Vacuum pauses after each 200 units of work by default, and then falls behind a busy queue.
    "autovacuum_vacuum_cost_limit": "2000",
    # How many rows are queued changes within minutes, and the planner must not take the backlog of an hour ago for it.
    "autovacuum_analyze_scale_factor": "0.02",
    "autovacuum_analyze_threshold": "2000",
    # Room on each page: progress reports touch no index, so with room they leave no index entry behind (HOT).
    "fillfactor": "85",
}


class Migration(migrations.Migration):
    dependencies = [("jobs", "0001_initial")]

    operations = [
        migrations.RunSQL(
            sql=f"ALTER TABLE jobs_job SET ({', '.join(f'{name} = {value}' for name, value in SETTINGS.items())})",
            reverse_sql=f"ALTER TABLE jobs_job RESET ({', '.join(SETTINGS)})",
        ),
    ]
