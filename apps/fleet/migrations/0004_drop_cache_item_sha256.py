from django.db import migrations


class Migration(migrations.Migration):
    """Hosts tell checksums of their weights with their inventory."""

    dependencies = [("fleet", "0003_cache_items")]

    operations = [migrations.RemoveField(model_name="cacheitem", name="sha256")]
