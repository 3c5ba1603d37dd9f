"""Values, one file a rule, the schedule, the simulator. All pure; `reconcile.autoscale` decides."""
