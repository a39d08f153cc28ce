#!/usr/bin/env python3
"""Sums up the test logs of one run.

Usage: report.py TESTLOGS_DIR ALLOWED_SKIPS RESULTS_FILE

Reads every test.xml below TESTLOGS_DIR that is named by RESULTS_FILE (one Bazel target a line) and
further `pass NAME` / `fail NAME` lines of RESULTS_FILE for steps that are not Bazel tests. Prints
skips and failures, then `N passed, M failed` last; exit status 1 when anything failed. While the
shared data is present (REPRISE_TEST_DATA names a folder), a skip that ALLOWED_SKIPS does not list
is a failure.
"""
import os
import sys
import xml.etree.ElementTree as ET


def read_allowed(path):
    with open(path, encoding="utf-8") as f:
        lines = (line.split("#")[0].split() for line in f)
        return {words[0] for words in lines if words}


def cases(xml_path):
    """Yields (name, outcome, message) for each case of one target."""
    root = ET.parse(xml_path).getroot()
    for case in root.iter("testcase"):
        name = f"{case.get('classname') or ''}.{case.get('name')}".lstrip(".")
        failure = case.find("failure")
        error = case.find("error")
        skipped = case.find("skipped")
        if failure is not None or error is not None:
            bad = failure if failure is not None else error
            yield name, "fail", (bad.get("message") or "").strip().split("\n")[0]
        elif skipped is not None or case.get("result") in ("skipped", "suppressed"):
            message = skipped.get("message") if skipped is not None else ""
            yield name, "skip", " ".join((message or "").split())
        else:
            yield name, "pass", ""


def main():
    logs, allowed_path, results = sys.argv[1:4]
    allowed = read_allowed(allowed_path)
    strict = os.path.isdir(os.environ.get("REPRISE_TEST_DATA", ""))
    passed, failed, skipped = 0, [], []
    with open(results, encoding="utf-8") as f:
        lines = [line.split(None, 1) for line in f if line.strip()]
    for words in lines:
        if words[0] == "pass":
            passed += 1
            continue
        if words[0] == "fail":
            failed.append((words[1].strip(), "step failed"))
            continue
        target = words[0]
        path = os.path.join(logs, target.lstrip("/").replace(":", "/"), "test.xml")
        if not os.path.exists(path):
            failed.append((target, "did not run (build failure or time-out)"))
            continue
        for name, outcome, message in cases(path):
            if outcome == "pass":
                passed += 1
            elif outcome == "fail":
                failed.append((f"{target} {name}", message))
            else:
                skipped.append((name, message))
    for name, message in skipped:
        known = name in allowed
        print(f"skipped: {name}: {message}" + ("" if known or not strict else " (not in tests/ALLOWED_SKIPS)"))
        if strict and not known:
            failed.append((name, "skipped, and not listed in tests/ALLOWED_SKIPS"))
    for name, message in failed:
        print(f"FAILED: {name}: {message}")
    print(f"{passed} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
