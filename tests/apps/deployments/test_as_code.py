"""Deployments as YAML: what is exported applies as no change; a typo is told with its line."""

import io
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.deployments import actions
from apps.deployments.as_code import manifest
from apps.deployments.as_code.apply import Action, Wish, apply
from apps.deployments.as_code.export import text_of
from apps.deployments.as_code.manifest import BadManifest
from apps.deployments.models import Deployment, Event
from apps.deployments.orders import Change, NewDeployment, Scaling
from apps.deployments.queries import get
from apps.deployments.states import DesiredDeployment
from apps.lib.problems import Problem
from tests.apps.deployments.factories import NOW, make_host

SIMPLE = """\
name: chat
catalog: smollm2-135m-instruct
engine:
  kind: simulator
scaling:
  min_replicas: 2
  max_replicas: 3
rollout:
  strategy: canary
  canary:
    weight_ratio: 0.25
"""
SECOND = SIMPLE.replace("name: chat", "name: other")


def done(text: str, **members) -> list:
    wish = Wish(documents=manifest.parse(text), **{"owner": "team", **members})
    return apply(wish, actor="ada", now=NOW)


def refused(text: str, **members) -> Problem:
    with pytest.raises(Problem) as caught:
        done(text, **members)
    return caught.value


class TestParse:
    def test_knows_the_line_of_each_member(self):
        (document,) = manifest.parse("\n" + SIMPLE)

        assert document.line_of("scaling.max_replicas") == 8
        assert document.line_of("rollout.canary.keys.0") == 11

    @pytest.mark.parametrize(
        ("text", "line", "words"),
        [
            ("name: a\ncatalog: b\nscalling: {}\n", 3, "did you mean `scaling`?"),
            ("name: a\ncatalog: b\nname: c\n", 3, "stands twice, first on line 1"),
            ("name: a\n", 1, "is missing"),
            ("name: a\n  catalog: [\n", 2, "no YAML"),
            ("- a\n", 1, "a document is a mapping"),
            ("name: &x a\ncatalog: *x\n", 1, "anchors"),
            ("name: !!python/object:os.system a\ncatalog: b\n", 1, "plain text"),
            ("name: 2026-01-01\ncatalog: b\n", 1, "plain text"),
        ],
    )
    def test_says_where_text_is_wrong(self, text, line, words):
        with pytest.raises(BadManifest) as caught:
            manifest.parse(text)
        assert caught.value.line == line
        assert words in str(caught.value)

    @settings(max_examples=60, deadline=None)
    @given(
        st.dictionaries(
            st.text("abc_", min_size=1, max_size=5),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.text(max_size=20),
                lambda inner: st.lists(inner, max_size=3),
                max_leaves=5,
            ),
            max_size=4,
        )
    )
    def test_reads_back_what_it_writes(self, engine):
        value = {"name": "a", "catalog": "b", "engine": engine}

        (document,) = manifest.parse(manifest.dump([value]))

        assert document.value == value


@pytest.mark.django_db
@pytest.mark.usefixtures("redis_server")
class TestApply:
    @pytest.fixture(autouse=True)
    def host(self):
        make_host()

    def test_creates_then_finds_nothing_to_change(self):
        assert [one.action for one in done(SIMPLE)] == [Action.CREATE]
        generation = get("chat").generation

        assert [one.action for one in done(SIMPLE)] == [Action.UNCHANGED]
        assert get("chat").generation == generation
        assert get("chat").owner == "team"

    @pytest.mark.parametrize(
        "patch",
        [
            Change(scaling=Scaling(min_replicas=1, max_replicas=5, hold_seconds=30)),
            Change(scaling=Scaling(gpu_budget=4, ttft_target_seconds=1.5)),
            Change(engine={"kind": "simulator", "max_num_seqs": 4, "simulator": {"seed": 3}}),
            Change(rollout={"strategy": "blue_green", "shadow_ratio": 0.5, "keep_seconds": 0}),
        ],
        ids=["scaling", "limits", "engine", "rollout"],
    )
    def test_what_is_exported_applies_as_no_change(self, patch):
        done(SIMPLE)
        actions.change(get("chat"), patch=patch, actor="ada", now=NOW)

        (one,) = done(text_of(get("chat")))

        assert one.action is Action.UNCHANGED
        assert one.differences == ()

    def test_shows_what_differs_and_changes_it(self):
        done(SIMPLE)

        (one,) = done(SIMPLE.replace("max_replicas: 3", "max_replicas: 8"))

        assert one.says() == ["~ chat: change", "    scaling.max_replicas: 3 -> 8"]
        assert get("chat").scaling.max_replicas == 8

    def test_what_a_document_leaves_out_is_the_default(self):
        done(SIMPLE)

        done("name: chat\ncatalog: smollm2-135m-instruct\nengine: {kind: simulator}\n")

        row = get("chat")
        assert (row.scaling.min_replicas, row.rollout["strategy"]) == (1, "rolling")

    def test_a_dry_run_says_the_same_and_writes_nothing(self):
        (one,) = done(SIMPLE, dry_run=True)

        assert one.action is Action.CREATE
        assert not Deployment.objects.exists()
        assert not Event.objects.exists()

    @pytest.mark.parametrize(
        ("old", "new", "line", "words"),
        [
            ("max_replicas: 3", "max_replica: 3", 7, "did you mean max_replicas?"),
            ("min_replicas: 2", "min_replicas: 9", 6, "is more than max_replicas"),
            ("weight_ratio", "weigth_ratio", 11, "did you mean weight_ratio?"),
            ("kind: simulator", "kind: simulater", 4, "engine.kind"),
            ("smollm2-135m-instruct", "smollm2-135m-instruc", 2, "smollm2-135m-instruct"),
        ],
    )
    def test_a_mistake_is_told_with_its_line_and_nothing_is_done(self, old, new, line, words):
        problem = refused(SECOND + "---\n" + SIMPLE.replace(old, new))

        assert problem.extra["line"] == line + len(SECOND.splitlines()) + 1
        assert words in problem.detail
        assert not Deployment.objects.exists()

    def test_prunes_what_it_owns_and_nothing_else(self):
        done(SIMPLE + "---\n" + SECOND)
        done(SIMPLE.replace("name: chat", "name: theirs"), owner="others")
        actions.create(manifest_order("mine-by-hand"), actor="ada", now=NOW + timedelta(seconds=1))

        results = done(SIMPLE, prune=True)

        assert [(one.name, one.action) for one in results] == [
            ("chat", Action.UNCHANGED),
            ("other", Action.DELETE),
        ]
        gone = Deployment.objects.filter(desired=DesiredDeployment.DELETED)
        assert [row.name for row in gone] == ["other"]

    def test_leaves_another_sets_deployments_alone_unless_told(self):
        done(SIMPLE, owner="others")

        assert refused(SIMPLE).code == "owned_by_other"
        assert done(SIMPLE, take_over=True)[0].action is Action.CHANGE
        assert get("chat").owner == "team"

    def test_the_same_name_twice_is_refused(self):
        assert "stands also in" in refused(SIMPLE + "---\n" + SIMPLE).detail

    def test_the_command_reads_a_folder_and_prints_the_plan(self, tmp_path):
        (tmp_path / "one.yaml").write_text(SIMPLE)
        (tmp_path / "two.yml").write_text(SECOND)
        out = io.StringIO()

        call_command("apply", str(tmp_path), "--dry-run", stdout=out)

        assert "+ chat: create" in out.getvalue()
        assert "+ other: create" in out.getvalue()
        assert not Deployment.objects.exists()

    def test_the_command_names_file_and_line(self, tmp_path):
        file = tmp_path / "one.yaml"
        file.write_text(SIMPLE.replace("scaling", "scalling"))

        with pytest.raises(CommandError, match=r"one.yaml:5: .*did you mean `scaling`\?"):
            call_command("apply", str(file))


def manifest_order(name: str) -> NewDeployment:
    return NewDeployment(catalog="smollm2-135m-instruct", name=name, engine={"kind": "simulator"})
