from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('jobs', '0009_letter_filters'),
    ]

    operations = [
        migrations.AddField(
            model_name='job',
            name='begun_token',
            field=models.IntegerField(help_text='Token of the last attempt that said: my body begins.', null=True),
        ),
    ]
