"""Every command of the command line with words that ask for no connection, in an order in which each has something to do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Asked:
    words: str
    made: tuple[str, ...] = ()
    open: bool = False
    quick: bool = False
    user: str = "tester"
    code: int = 0


KEEP = "--as keep --accept-loss"

COMMANDS: dict[str, Asked] = {
    "admin init": Asked("admin init", quick=True),
    "login": Asked("login https://fusery.example.org --remove"),
    "doctor": Asked("doctor"),
    "admin schema": Asked("admin schema list"),
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
    "log, of a task": Asked("log course_rec"),
    "edit": Asked("edit course_rec@1 --note typo"),
    "diff": Asked("diff course_rec@1 course_rec@2"),
    "diff, of a task": Asked("diff course_rec"),
    "eval record": Asked("eval record course_rec@1 results.json"),
    "eval run": Asked("eval run course_rec@1 --prompts q.txt"),
    "eval list": Asked("eval list course_rec@1"),
    "eval withdraw": Asked("eval withdraw course_rec@1 accuracy --reason wrong"),
    "eval probe": Asked("eval probe course_rec@1 --against base --prompts q.txt --limit 1"),
    "eval bench": Asked("eval bench course_rec@1 --tokens 2 --runs 1 --resident 0 --as keep"),
    "fuse": Asked(f"fuse course_rec@1 {KEEP} --publish full", quick=True),
    "combine": Asked("combine course_rec@1 course_rec@2 --task both"),
    "combine, one": Asked("combine course_rec@2 --rank 2 --task small"),
    "show, fidelity": Asked("show --fidelity course_rec@1 --plot map.svg", ("map.svg",), quick=True),
    "admin cache list": Asked("admin cache list"),
    "admin cache pin": Asked("admin cache pin course_rec@1"),
    "admin cache unpin": Asked("admin cache unpin course_rec@1"),
    "admin cache explain": Asked("admin cache explain course_rec@1"),
    "admin cache prune": Asked("admin cache prune"),
    "materialize": Asked(
        f"materialize course_rec@1 bundle --target docker {KEEP}", ("bundle",), open=True, quick=True
    ),
    "alias set": Asked("alias set course_rec@1 prod"),
    "alias set, again": Asked("alias set course_rec@2 prod"),
    "alias rollback": Asked("alias rollback course_rec#prod"),
    "alias list": Asked("alias list"),
    "alias show": Asked("alias show course_rec#prod"),
    "log, of an alias": Asked("log course_rec#prod"),
    "alias remove": Asked("alias remove course_rec#prod"),
    "deploy sync": Asked("deploy sync course_rec@1 --to synced", ("synced",), open=True, quick=True),
    "deploy record": Asked("deploy record course_rec@1 lab"),
    "deploy list": Asked("deploy list"),
    "deploy end": Asked("deploy end lab"),
    "get": Asked("get course_rec@1"),
    "get, to a folder": Asked("get course_rec@1 exported", ("exported",), open=True, quick=True),
    "register, exported": Asked("register exported/adapters_course_rec_v1_20260115"),
    "lineage": Asked("lineage course_rec@1 --format dot -o graph.dot", ("graph.dot",), quick=True),
    "identify": Asked("identify bundle"),
    "log": Asked("log"),
    "audit": Asked("audit"),
    "lineage, slsa": Asked(
        "lineage --format slsa course_rec@1 -o attested.json", ("attested.json",), quick=True
    ),
    "admin trust keygen": Asked("admin trust keygen anna", ("anna.pem", "anna.pub"), quick=True),
    "admin trust add": Asked("admin trust add anna anna.pub --for *#prod"),
    "admin trust list": Asked("admin trust list"),
    "sign": Asked("sign bundle --key anna.pem", ("bundle.sig",), quick=True),
    "identify, signature": Asked("identify bundle --key anna.pub"),
    "sign, list": Asked("sign --list course_rec@1"),
    "sign, again": Asked("sign course_rec@1 --key anna.pem", quick=True),
    "sign, log": Asked("sign --log --key anna.pem -o anchor.json", ("anchor.json",), quick=True),
    "admin trust revoke": Asked("admin trust revoke anna"),
    "push": Asked("push course_rec@1 --to there", ("there",), quick=True),
    "pull": Asked("--registry here pull course_rec@1 --from there", ("here",)),
    "alias rules set": Asked("alias rules set canary --admission no_errors"),
    "alias rules show": Asked("alias rules show canary"),
    "alias rules list": Asked("alias rules list"),
    "alias approve": Asked("alias approve course_rec@1 canary", user="ben"),
    "promote": Asked("promote course_rec@1 canary"),
    "alias rules remove": Asked("alias rules remove canary"),
    "yank": Asked("yank course_rec@2 --reason worse"),
    "admin token create": Asked("admin token create ci --role reader"),
    "admin token list": Asked("admin token list"),
    "admin token revoke": Asked("admin token revoke ci"),
    "admin webhook deliver": Asked("admin webhook deliver"),
    "admin webhook add": Asked("admin webhook add https://hooks.example.org/x --on alias.moved --name ci"),
    "admin webhook list": Asked("admin webhook list"),
    "admin webhook key": Asked("admin webhook key ci"),
    "admin webhook retry": Asked("admin webhook retry ci"),
    "admin webhook skip": Asked("admin webhook skip ci --reason over", code=2),
    "admin webhook remove": Asked("admin webhook remove ci"),
    "lineage, down": Asked("lineage --down tiny"),
    "ui, saved": Asked("ui --save report.html", ("report.html",), quick=True),
    "admin backup": Asked("admin backup copy", ("copy",), quick=True),
    "admin restore": Asked("--registry restored admin restore copy --own", ("restored",), quick=True),
    "admin gc": Asked("admin gc --yes"),
    "admin db upgrade": Asked("admin db upgrade"),
    "admin db current": Asked("admin db current"),
    "admin db check": Asked("admin db check"),
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
