"""Settings of the control plane, from the environment alone.

Every variable of the contract is read here; a wrong value stops the start with one sentence.
"""

import os
from pathlib import Path

from controlplane.environment import (
    data_dir,
    database,
    public_origins,
    redis_url,
    run_dir,
    secret_key,
)

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = data_dir()
RUN_DIR = run_dir(DATA_DIR)

DEBUG = False
SECRET_KEY = secret_key(DATA_DIR)
PUBLIC_URL = os.environ.get("HEARTH_PUBLIC_URL", "").rstrip("/")
WEB_ADDR = os.environ.get("HEARTH_WEB_ADDR", "127.0.0.1:8000")
GATEWAY_ADDR = os.environ.get("HEARTH_GATEWAY_ADDR", "127.0.0.1:8080")
ENGINE = os.environ.get("HEARTH_ENGINE", "")
"""`simulator` serves every deployment by the simulator; empty means the real engine."""
API_TOKEN = os.environ.get("HEARTH_API_TOKEN", "")
ADMIN_PASSWORD = os.environ.get("HEARTH_ADMIN_PASSWORD", "")
REDIS_URL = redis_url(DATA_DIR)
MILVUS_URI = os.environ.get("MILVUS_URI", "")
"""Address of a Milvus server, cluster or Zilliz Cloud; empty: the embedded one (`vectors`)."""
MILVUS_TOKEN = os.environ.get("MILVUS_TOKEN", "")

ALLOWED_HOSTS, CSRF_TRUSTED_ORIGINS = public_origins(PUBLIC_URL, WEB_ADDR)
USE_HTTPS = PUBLIC_URL.startswith("https://")

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "channels",
    "rest_framework",
    "drf_spectacular",
    "apps.accounts",
    "apps.telemetry",
    "apps.catalog",
    "apps.fleet",
    "apps.deployments",
    "apps.traffic",
    "apps.rag",
    "apps.dashboard",
    "controlplane",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.middleware.csp.ContentSecurityPolicyMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "controlplane.urls"
ASGI_APPLICATION = "controlplane.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
            "builtins": ["apps.dashboard.templatetags.hearth"],
        },
    }
]

DATABASES = {"default": database(os.environ.get("DATABASE_URL", ""), DATA_DIR)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_USER_MODEL = "accounts.User"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
AUTH_PASSWORD_VALIDATORS = [
    {
        "NAME": "django.contrib.auth.password_validation.MinimumLengthValidator",
        "OPTIONS": {"min_length": 12},
    },
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "sign-in"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "sign-in"

CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {
            # A page's socket waits for changes in turns of 5 s, as long as redis-py would let a
            # silent connection live: an idle page would lose its socket whenever Redis was late.
            "hosts": [{"address": REDIS_URL, "socket_timeout": 20.0}],
            "capacity": 256,
            "expiry": 30,
        },
    }
}

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False

STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
STATIC_ROOT = DATA_DIR / "static"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "documents": {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": DATA_DIR / "documents"},
    },
    "staticfiles": {"BACKEND": "controlplane.staticfiles.Storage"},
}

SECURE_CSP = {
    "default-src": ["'none'"],
    "script-src": ["'self'"],
    "style-src": ["'self'"],
    "img-src": ["'self'", "data:"],
    "font-src": ["'self'"],
    "connect-src": ["'self'"],
    "manifest-src": ["'self'"],
    "base-uri": ["'none'"],
    "form-action": ["'self'"],
    "frame-ancestors": ["'none'"],
}
SECURE_REFERRER_POLICY = "same-origin"
SECURE_HSTS_SECONDS = 31_536_000 if USE_HTTPS else 0
SESSION_COOKIE_NAME = "__Host-hearth" if USE_HTTPS else "hearth"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = USE_HTTPS
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_SAMESITE = "Lax"
X_FRAME_OPTIONS = "DENY"

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "apps.accounts.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["apps.accounts.permissions.RolePermission"],
    "DEFAULT_PAGINATION_CLASS": "apps.lib.paging.Pages",
    "DEFAULT_SCHEMA_CLASS": "apps.lib.schema.Schema",
    "DEFAULT_RENDERER_CLASSES": ["apps.lib.rendering.JsonRenderer"],
    "DEFAULT_PARSER_CLASSES": ["apps.lib.parsing.StrictJsonParser"],
    "EXCEPTION_HANDLER": "apps.lib.drf.handle",
    "UNAUTHENTICATED_USER": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Hearth",
    "DESCRIPTION": "Control plane for self-hosted large language models.",
    "VERSION": "1",
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "apps.lib.schema.add_problems",
    ],
    "ENUM_NAME_OVERRIDES": {
        "DeviceEnum": ["cpu", "cuda"],
        "DeploymentPhaseEnum": "apps.deployments.serializers.DEPLOYMENT_PHASES",
        "ReplicaPhaseEnum": "apps.deployments.serializers.REPLICA_PHASES",
        "RolloutStrategyEnum": "apps.deployments.rollout_shapes.STRATEGIES",
    },
}

DETOUR_SOURCES = ("apps.rag.queries.detours",)
"""Functions that return model names for the routing table which this process answers itself."""

WORKER_APP = "controlplane.celery"
"""Module of the Celery application, loaded by who first sends it something."""
CELERY_BROKER_URL = REDIS_URL.replace("unix://", "redis+socket://", 1)

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": os.environ.get("HEARTH_LOG_LEVEL", "INFO")},
    "loggers": {"httpx": {"level": "WARNING"}},
}
