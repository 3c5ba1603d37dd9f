"""The Settings tab: what it shows, what it saves, and what it refuses."""

import pytest

from apps.accounts.models import AuditEntry
from apps.deployments.models import Deployment, Revision
from tests.apps.dashboard import factories

pytestmark = pytest.mark.django_db

URL = "/deployments/smol/settings/"


@pytest.fixture
def smol(redis) -> Deployment:
    made = factories.deployment("smol", phase="ready", replicas=1)
    factories.replica(made, factories.host("box"))
    return made


def saved() -> dict:
    return Revision.objects.filter(deployment__name="smol").latest("number").settings


class TestTheForm:
    def test_shows_every_group_with_defaults_and_reasons(self, signed_in, smol):
        page = signed_in.get(URL).content.decode()

        for group in ("Quantization", "Parallelism", "Speculative decoding", "LoRA adapters"):
            assert f">{group}</h2>" in page
        assert 'placeholder="2048"' in page
        assert "it answers garbage on a CPU engine" in page
        assert '<option value="turboquant_4bit_nc" disabled>' in page

    def test_a_viewer_may_look_only(self, viewer, smol):
        page = viewer.get(URL)

        assert page.status_code == 200
        assert "Your role may look, not change." in page.content.decode()
        assert viewer.post(URL, {"max_num_seqs": "4"}).status_code == 403


class TestSaving:
    def test_makes_a_new_revision_of_what_was_filled_in(self, signed_in, smol):
        form = {
            "generation": smol.generation,
            "max_model_len": "1024",
            "enforce_eager": "off",
            "lora_adapters": "support = path:/srv/lora\n",
        }

        answer = signed_in.post(URL, form)

        assert answer.status_code == 302
        assert saved() == {
            "max_model_len": 1024,
            "enforce_eager": False,
            "lora_adapters": {"support": "path:/srv/lora"},
        }

    def test_a_refused_value_stands_beside_its_field(self, signed_in, smol):
        answer = signed_in.post(URL, {"max_model_len": "9000"})

        assert answer.status_code == 422
        assert "give at most 8192" in answer.content.decode()
        assert Revision.objects.count() == 1

    def test_two_people_do_not_overwrite_each_other(self, signed_in, smol):
        first = {"generation": smol.generation, "max_num_seqs": "4"}
        assert signed_in.post(URL, first).status_code == 302

        second = signed_in.post(URL, {"generation": smol.generation, "max_num_seqs": "5"})

        assert second.status_code == 422
        assert "changed" in second.content.decode()
        assert saved() == {"max_num_seqs": 4}

    def test_extra_arguments_of_an_admin_are_audited(self, signed_in, smol):
        answer = signed_in.post(URL, {"extra_args": "--seed 7"})

        assert answer.status_code == 302
        assert saved() == {"extra_args": ["--seed", "7"]}
        assert AuditEntry.objects.filter(action="deployment.extra_args").count() == 1


class TestEnginesOfTheirOwn:
    def test_the_catalog_shows_what_they_need_and_whether_it_fits(self, signed_in, smol):
        page = signed_in.get("/catalog/?q=bento").content.decode()

        assert "Summarizer (Bento)" in page
        assert "own engine" in page
        assert "Fits box now" in page

    def test_one_click_deploys_it_and_its_pages_say_how_to_ask_it(self, signed_in, smol):
        made = signed_in.post("/catalog/bento-summarizer/deploy/", {})

        assert made.status_code == 302
        page = signed_in.get("/deployments/bento-summarizer/").content.decode()
        assert "/apis/bento-summarizer/summarize" in page
        settings = signed_in.get("/deployments/bento-summarizer/settings/").content.decode()
        assert "an engine of its own" in settings
        assert signed_in.get("/catalog/bento-summarizer/").status_code == 200
