"""Orders that set the engine: what is checked, who may give what, and what becomes of it."""

import pytest

from apps.accounts.models import AuditEntry
from apps.accounts.states import Role
from apps.deployments.models import Revision
from tests.apps.accounts.people import make_client
from tests.apps.deployments.factories import make_host

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]

URL = "/api/v1/deployments/"
SMOL = "smollm2-135m-instruct"
EXTRA = ["--seed", "7"]


def order(role, *, device=None, **engine):
    make_host()
    body = {"catalog": SMOL, "engine": engine} | (
        {"placement": {"device": device}} if device else {}
    )
    return make_client(role).post(URL, body, format="json")


class TestExtraArguments:
    def test_an_operator_is_told_that_they_are_for_admins(self):
        answer = order(Role.OPERATOR, extra_args=EXTRA)

        assert answer.status_code == 403
        assert answer.json()["code"] == "admins_only"
        assert answer.json()["field"] == "engine.extra_args"
        assert Revision.objects.count() == 0

    def test_an_admins_reach_the_spec_and_the_audit_log(self):
        answer = order(Role.ADMIN, extra_args=EXTRA)

        assert answer.status_code == 201
        assert Revision.objects.get().spec["settings"]["extra_args"] == EXTRA
        entry = AuditEntry.objects.get(action="deployment.extra_args")
        assert entry.data == {"extra_args": EXTRA}

    def test_an_operator_may_change_other_settings_beside_them(self):
        order(Role.ADMIN, extra_args=EXTRA)
        api = make_client(Role.OPERATOR)

        kept = api.patch(
            f"{URL}{SMOL}/", {"engine": {"extra_args": EXTRA, "max_num_seqs": 4}}, format="json"
        )
        more = api.patch(
            f"{URL}{SMOL}/", {"engine": {"extra_args": ["--seed", "8"]}}, format="json"
        )

        assert (kept.status_code, more.status_code) == (200, 403)

    def test_a_flag_that_does_not_exist_names_the_nearest(self):
        answer = order(Role.ADMIN, extra_args=["--sed", "7"])

        assert answer.status_code == 400
        assert answer.json()["field"] == "engine.extra_args"
        assert "did you mean `--seed`?" in answer.json()["detail"]


class TestAdapters:
    def test_each_is_served_under_the_deployments_name(self):
        order(Role.OPERATOR, lora_adapters={"support": "path:/srv/lora/support"})

        (adapter,) = Revision.objects.get().spec["adapters"]

        assert adapter["name"] == f"{SMOL}:support"
        assert adapter["weights"]["source"] == "path:/srv/lora/support"


class TestRefusals:
    @pytest.mark.parametrize(
        ("engine", "field", "says"),
        [
            ({"tensor_parallel_size": 2}, "engine.tensor_parallel_size", "give one of 1, 3, 9"),
            ({"max_model_len": 9000}, "engine.max_model_len", "give at most 8192"),
            ({"quantization": "fp8"}, "engine.quantization", "it fails on a CPU engine"),
            ({"kv_cache_dtype": "turboquant_4bit_nc"}, "engine.kv_cache_dtype", "garbage"),
            ({"max_model_length": 5}, "engine.max_model_length", "did you mean"),
        ],
    )
    def test_name_the_field_and_the_fix_and_leave_nothing_behind(self, engine, field, says):
        answer = order(Role.OPERATOR, device="cpu", **engine)

        assert answer.status_code == 400
        assert answer.json()["field"] == field
        assert says in answer.json()["detail"]
        assert Revision.objects.count() == 0

    def test_a_method_that_only_other_devices_run_is_a_reason_of_each_host(self):
        answer = order(Role.OPERATOR, quantization="fp8")

        assert answer.status_code == 422
        assert "`quantization` is 'fp8': it fails on a CPU engine" in answer.json()["reasons"][0]


class TestSheet:
    def test_says_defaults_ranges_and_reasons_for_one_model(self):
        found = make_client(Role.VIEWER).get("/api/v1/engine-settings/", {"catalog": SMOL}).json()

        assert found["device"] == "cpu"
        rows = {row["name"]: row for group in found["groups"] for row in group["settings"]}
        assert rows["max_model_len"]["default"] == "2048"
        assert rows["max_model_len"]["accepted"] == "a whole number from 1 to 8192"
        assert rows["tensor_parallel_size"]["accepted"] == "one of 1, 3, 9"
        assert not rows["kv_offload_bytes"]["available"]
        options = {option["value"]: option for option in rows["kv_cache_dtype"]["options"]}
        assert "garbage" in options["turboquant_4bit_nc"]["reason"]
        assert options["auto"]["available"]

    def test_of_a_gpu_generation_says_which_methods_it_cannot_run(self):
        api = make_client(Role.VIEWER)

        found = api.get("/api/v1/engine-settings/", {"capability": "7.5"}).json()

        rows = {row["name"]: row for group in found["groups"] for row in group["settings"]}
        options = {option["value"]: option for option in rows["quantization"]["options"]}
        assert "compute capability 8.0" in options["mxfp4"]["reason"]
        assert options["fp8"]["available"]

    @pytest.mark.parametrize(
        ("query", "status", "field"),
        [
            ({"device": "tpu"}, 400, "device"),
            ({"capability": "new"}, 400, "capability"),
            ({"catalog": "smolm2"}, 404, "catalog"),
            ({"catalog": SMOL, "variant": "q9"}, 404, "variant"),
        ],
    )
    def test_a_wrong_question_names_its_field(self, query, status, field):
        answer = make_client(Role.VIEWER).get("/api/v1/engine-settings/", query)

        assert (answer.status_code, answer.json()["field"]) == (status, field)


class TestExtraArgsAsCode:
    YAML = f"name: chat\ncatalog: {SMOL}\nengine:\n  extra_args: [--seed, '7']\n"

    def applied(self, role: Role):
        make_host()
        return make_client(role).post("/api/v1/apply/", {"yaml": self.YAML}, format="json")

    def test_an_operator_cannot_bring_them_in_by_a_document(self):
        answer = self.applied(Role.OPERATOR)

        assert (answer.status_code, answer.json()["code"]) == (403, "admins_only")
        assert "line 4" in answer.json()["detail"]
        assert not Revision.objects.exists()

    def test_an_admin_can_and_it_is_audited(self):
        answer = self.applied(Role.ADMIN)

        assert answer.status_code == 200, answer.json()
        entry = AuditEntry.objects.get(action="deployment.extra_args")
        assert entry.data == {"extra_args": ["--seed", "7"]}
