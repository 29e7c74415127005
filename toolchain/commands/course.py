"""course: twelve projects from bytes to 北京, each with a grader."""

from __future__ import annotations

import argparse

from toolchain.terminal import program
from toolchain.terminal.bars import advancing, progress_bar
from toolchain.terminal.reports import show
from toolchain.terminal.talk import print_json, put, say

from .options import Commands, command, group, json_option, junit_option, number


def add_course(commands: Commands) -> None:
    words = "From bytes to 北京: twelve projects, each with a page, a beginning, and a grader for any language."
    parser = group(commands, "course", words, "check")
    inner = parser.add_subparsers(dest="course_command", metavar="list|start|check", required=True)
    _add_list(inner)
    _add_start(inner)
    _add_check(inner)


def _add_list(inner: Commands) -> None:
    parser = command(inner, "list", run_course_list, "List the projects and their pages.", "course list")
    json_option(parser, "the projects")


def _add_start(inner: Commands) -> None:
    parser = command(
        inner,
        "start",
        run_course_start,
        "Lay out a directory to begin a project in: a start file, and an example of input and output.",
        "course start 3 three",
    )
    parser.add_argument("project", metavar="N", help="number or name of the project, see course list")
    parser.add_argument("directory", metavar="DIR", help="new or empty")


def _add_check(inner: Commands) -> None:
    parser = command(
        inner,
        "check",
        run_course_check,
        "Run a program on inputs that are made for this check, and say what is wrong with its outputs.",
        "course check 3 --command './mine {in} {out}'\ncourse check 5 --command 'node mine.js {in}' --keep tried",
    )
    parser.add_argument("project", metavar="N", help="number or name of the project, see course list")
    what = "what to run, without a shell, with your rights: without {out}, what it prints is its output"
    parser.add_argument("--command", dest="program", required=True, metavar="'… {in} … {out}'", help=what)
    parser.add_argument("--seed", type=int, metavar="N", help="make the same inputs again (default: new ones)")
    parser.add_argument("--timeout", type=number, default=30, metavar="S", help="seconds for each input (default 30)")
    parser.add_argument("--keep", metavar="DIR", help="keep the inputs, and what the program wrote, in a new directory")
    junit_option(parser, "the verdicts")
    json_option(parser, "the verdicts")


def run_course_list(args: argparse.Namespace) -> int:
    from toolchain.course.projects import PROJECTS

    if args.json:
        keys = ("number", "slug", "title", "chinese", "page")
        print_json([{key: getattr(project, key) for key in keys} for project in PROJECTS.values()])
        return 0
    for project in PROJECTS.values():
        put(f"{project.number:>2}  {project.slug:<11} {project.title}  {project.chinese}  {project.page}")
    say(args, f"begin with: {program.name()} course start 1 DIR")
    return 0


def run_course_start(args: argparse.Namespace) -> int:
    from toolchain.course.projects import project_named
    from toolchain.course.starting import start_project

    project = project_named(args.project)
    start_project(project, args.directory)
    say(args, f"{args.directory}: project {project.number}, {project.title}; README.md in it says what to do")
    return 0


def run_course_check(args: argparse.Namespace) -> int:
    from toolchain.course.grading import check_project
    from toolchain.course.projects import project_named

    how = {"seed": args.seed, "timeout": args.timeout, "keep": args.keep}
    with progress_bar(args, 0, "check", "input") as bar:
        grade = check_project(project_named(args.project), args.program, progress=advancing(bar), **how)
    return show(args, grade)
