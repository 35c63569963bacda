from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('jobs', '0004_without_redis'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AlterModelOptions(
            name='job',
            options={'permissions': [('cancel_job', 'Can cancel a job'), ('run_job', 'Can run or retry a waiting job now')]},
        ),
        migrations.AlterModelOptions(
            name='queuepause',
            options={'permissions': [('pause_queue', 'Can pause and resume a queue')], 'verbose_name': 'paused queue', 'verbose_name_plural': 'queues'},
        ),
        migrations.AlterModelOptions(
            name='schedulepolicy',
            options={'permissions': [('run_schedule', 'Can run a schedule now')], 'verbose_name_plural': 'schedule policies'},
        ),
        migrations.AddIndex(
            model_name='deadletter',
            index=models.Index(condition=models.Q(('replay_id__isnull', False)), fields=['replay_id'], name='letter_replay'),
        ),
        migrations.AddIndex(
            model_name='job',
            index=models.Index(condition=models.Q(('state__in', ['succeeded', 'dead', 'cancelled'])), fields=['created_at'], name='job_ended'),
        ),
        migrations.AddIndex(
            model_name='job',
            index=models.Index(condition=models.Q(('state__in', ['succeeded', 'dead', 'cancelled'])), fields=['task', 'created_at'], name='job_ended_task'),
        ),
        migrations.AddIndex(
            model_name='job',
            index=models.Index(condition=models.Q(('state__in', ['succeeded', 'dead', 'cancelled'])), fields=['queue', 'created_at'], name='job_ended_queue'),
        ),
        migrations.AddIndex(
            model_name='job',
            index=models.Index(condition=models.Q(('state__in', ['dead', 'cancelled'])), fields=['state', 'created_at'], name='job_unhappy'),
        ),
        migrations.AddIndex(
            model_name='job',
            index=models.Index(condition=models.Q(('parent_id__isnull', False)), fields=['parent_id'], name='job_parent'),
        ),
        migrations.AddIndex(
            model_name='job',
            index=models.Index(condition=models.Q(('replay_of__isnull', False)), fields=['replay_of'], name='job_replay'),
        ),
    ]
