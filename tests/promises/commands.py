"""Every command of the command line with words that ask for no connection, in an order in which each has something to do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Asked:
    """A command as it is asked for."""

    words: str
    made: tuple[str, ...] = ()
    open: bool = False
    quick: bool = False
    user: str = "tester"
    code: int = 0


KEEP = "--precision keep --accept-loss"

COMMANDS: dict[str, Asked] = {
    "init": Asked("init", quick=True),
    "login": Asked("login https://fusery.example.org --remove"),
    "doctor": Asked("doctor"),
    "completion": Asked("completion bash"),
    "schema": Asked("schema list"),
    "base add": Asked("base add tiny --name tiny", quick=True),
    "base list": Asked("base list"),
    "base show": Asked("base show tiny"),
    "base calibrate": Asked("base calibrate tiny --prompts q.txt"),
    "check": Asked("check first --base tiny"),
    "register": Asked("register first --base tiny --task course_rec --dataset d --date 20260115", quick=True),
    "register, again": Asked(
        "register second --base tiny --task course_rec --date 20260201 --parent course_rec@1", quick=True
    ),
    "train": Asked(
        "train --base tiny --task cats -- --model tiny --train --data data --num-layers 1 --batch-size 4 --iters 2 "
        "--adapter-path run",
        ("run",),
    ),
    "list": Asked("list"),
    "show": Asked("show course_rec@1"),
    "history": Asked("history course_rec"),
    "amend": Asked("amend course_rec@1 --note typo"),
    "diff": Asked("diff course_rec@1 course_rec@2"),
    "compare": Asked("compare course_rec@1 course_rec@2"),
    "eval record": Asked("eval record course_rec@1 results.json"),
    "eval run": Asked("eval run course_rec@1 --prompts q.txt"),
    "eval list": Asked("eval list course_rec@1"),
    "eval withdraw": Asked("eval withdraw course_rec@1 accuracy --reason wrong"),
    "probe": Asked("probe course_rec@1 --against base --prompts q.txt --limit 1"),
    "bench": Asked("bench course_rec@1 --tokens 2 --runs 1"),
    "fuse": Asked(f"fuse course_rec@1 {KEEP} --publish full", quick=True),
    "combine": Asked("combine course_rec@1 course_rec@2 --task both"),
    "shrink": Asked("shrink course_rec@2 --rank 2 --task small"),
    "fidelity": Asked("fidelity course_rec@1 --plot map.svg", ("map.svg",), quick=True),
    "cache list": Asked("cache list"),
    "cache pin": Asked("cache pin course_rec@1"),
    "cache unpin": Asked("cache unpin course_rec@1"),
    "cache explain": Asked("cache explain course_rec@1"),
    "cache prune": Asked("cache prune"),
    "materialize": Asked(
        f"materialize course_rec@1 bundle --target docker {KEEP}", ("bundle",), open=True, quick=True
    ),
    "alias set": Asked("alias set course_rec@1 prod"),
    "alias set, again": Asked("alias set course_rec@2 prod"),
    "alias rollback": Asked("alias rollback course_rec#prod"),
    "alias list": Asked("alias list"),
    "alias show": Asked("alias show course_rec#prod"),
    "alias history": Asked("alias history course_rec#prod"),
    "alias remove": Asked("alias remove course_rec#prod"),
    "sync": Asked("sync course_rec@1 --to synced", ("synced",), open=True, quick=True),
    "deploy record": Asked("deploy record course_rec@1 lab"),
    "deploy list": Asked("deploy list"),
    "deploy end": Asked("deploy end lab"),
    "path": Asked("path course_rec@1"),
    "export": Asked("export course_rec@1 exported", ("exported",), open=True, quick=True),
    "import": Asked("import exported/adapters_course_rec_v1_20260115"),
    "lineage": Asked("lineage course_rec@1 --format dot -o graph.dot", ("graph.dot",), quick=True),
    "identify": Asked("identify bundle"),
    "events": Asked("events"),
    "audit": Asked("audit"),
    "attest": Asked("attest course_rec@1 -o attested.json", ("attested.json",), quick=True),
    "trust keygen": Asked("trust keygen anna", ("anna.pem", "anna.pub"), quick=True),
    "trust add": Asked("trust add anna anna.pub --for *#prod"),
    "trust list": Asked("trust list"),
    "sign": Asked("sign bundle --key anna.pem", ("bundle.sig",), quick=True),
    "verify": Asked("verify bundle --key anna.pub"),
    "signature list": Asked("signature list course_rec@1"),
    "sign, again": Asked("sign course_rec@1 --key anna.pem", quick=True),
    "signature export": Asked("signature export course_rec@1 -o adapter.sig", ("adapter.sig",), quick=True),
    "signature anchor": Asked("signature anchor --key anna.pem -o anchor.json", ("anchor.json",), quick=True),
    "trust revoke": Asked("trust revoke anna"),
    "push": Asked("push course_rec@1 --to there", ("there",), quick=True),
    "pull": Asked("--registry here pull course_rec@1 --from there", ("here",)),
    "rules set": Asked("rules set canary --admission no_errors"),
    "rules show": Asked("rules show canary"),
    "rules list": Asked("rules list"),
    "approve": Asked("approve course_rec@1 canary", user="ben"),
    "promote": Asked("promote course_rec@1 canary"),
    "rules remove": Asked("rules remove canary"),
    "yank": Asked("yank course_rec@2 --reason worse"),
    "token create": Asked("token create ci --role reader"),
    "token list": Asked("token list"),
    "token revoke": Asked("token revoke ci"),
    "webhook deliver": Asked("webhook deliver"),
    "webhook add": Asked("webhook add https://hooks.example.org/x --on alias.moved --name ci"),
    "webhook list": Asked("webhook list"),
    "webhook show": Asked("webhook show ci"),
    "webhook key": Asked("webhook key ci"),
    "webhook retry": Asked("webhook retry ci"),
    "webhook skip": Asked("webhook skip ci --reason over", code=2),
    "webhook remove": Asked("webhook remove ci"),
    "impact": Asked("impact base:tiny"),
    "report": Asked("report --html report.html", ("report.html",), quick=True),
    "backup": Asked("backup copy", ("copy",), quick=True),
    "restore": Asked("--registry restored restore copy --own", ("restored",), quick=True),
    "gc": Asked("gc --yes"),
    "db upgrade": Asked("db upgrade"),
    "db current": Asked("db current"),
    "db check": Asked("db check"),
}
"""Name of a command, and after a comma what tells two of the same apart."""

SERVERS: dict[str, str] = {
    "ui": "ui --no-browser --port 0",
    "server": "server --port 0",
    "serve": "serve course_rec@1 --port 0",
}
"""Commands that go on until they are ended."""

ELSEWHERE = {"demo": "tests/end_to_end/test_demo.py"}
"""Commands that are looked at by another test."""
