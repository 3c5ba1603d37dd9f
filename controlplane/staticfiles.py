"""Static files: hashed names, compressed once, cached for ever by the browser."""

from whitenoise.storage import CompressedManifestStaticFilesStorage


class Storage(CompressedManifestStaticFilesStorage):  # type: ignore[misc]
    """Hashes the names inside `import` lines of ES modules too."""

    support_js_module_import_aggregation = True
    manifest_strict = False
