"""Book what replicas hold that were placed before there were bookings."""

from django.apps.registry import Apps
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor


def book(apps: Apps, _editor: BaseDatabaseSchemaEditor) -> None:
    Replica = apps.get_model("deployments", "Replica")
    Booking = apps.get_model("deployments", "Booking")
    Capacity = apps.get_model("fleet", "Capacity")
    placed = Replica.objects.filter(host__isnull=False).exclude(phase="stopped")
    for replica in placed.select_related("host"):
        inventory = replica.host.inventory
        totals = {gpu["uuid"]: gpu["memory_total_bytes"] for gpu in inventory.get("gpus", ())}
        totals[""] = inventory.get("memory_total_bytes", 0)
        for device in replica.gpu_uuids or [""]:
            capacity, _ = Capacity.objects.get_or_create(
                host=replica.host,
                gpu_uuid=device,
                defaults={"total_bytes": totals.get(device, replica.memory_bytes)},
            )
            capacity.booked_bytes += replica.memory_bytes
            capacity.total_bytes = max(capacity.total_bytes, capacity.booked_bytes)
            capacity.whole_bookings = 1 if device else 0
            capacity.save()
            Booking.objects.create(
                replica=replica, capacity=capacity, bytes=replica.memory_bytes, whole=bool(device)
            )


class Migration(migrations.Migration):
    dependencies = [("deployments", "0003_bookings"), ("fleet", "0002_capacity_and_taints")]

    operations = [migrations.RunPython(book, migrations.RunPython.noop)]
