"""Checks the chart in deploy/helm, compose.yaml, and k8s/ beside the chart; `cargo xtask deploy check` calls this in a Python of its own.

Nothing here needs a cluster or a network. Each step says what it looked at; a finding says where, and makes the exit code 1.
`--write` writes what is made: the chart's table of values and its copies of rules, and k8s/base.
"""

import argparse
import pathlib
import shutil
import sys
import tempfile

import chart
import compose
import invariants
import kustomize
import planted
import readme
import rules
import schemas

# Older than the oldest schema: only our own rules look at it.
OLDEST_RENDERED = "1.20"


class Check:
    def __init__(self, root, kubectl):
        self.deploy, self.folder = root / "deploy", root / "deploy/helm/fulcrum"
        self.kustomize_folder, self.kubectl = root / "k8s", kubectl
        self.composed, self.composed_tls = compose.load(self.deploy), compose.load_tls(self.deploy)
        ci = root / "deploy/helm/ci"
        self.good = {"defaults": {}} | {path.name: chart.load(path) for path in sorted(ci.glob("*.yaml"))}
        self.bad = sorted((ci / "bad").glob("*.yaml"))
        self.versions = schemas.versions()
        self.failed = False

    def say(self, step, looked_at, findings):
        print(f"{'FAILED' if findings else 'ok':6}  {step}: {looked_at}", flush=True)
        for finding in findings:
            print(f"          {finding}")
        self.failed |= bool(findings)

    def run(self):
        self.say("values", "README, values.yaml and values.schema.json agree", readme.findings(self.folder))
        self.lint()
        self.renderings()
        self.refusals()
        self.say("rules", f"{rules.count(self.deploy)} files are copies of prometheus/rules", rules.findings(self.deploy))
        services = f"{len(self.composed['services'])} services"
        self.say("compose.yaml", services, compose.findings(self.deploy, self.composed))
        encrypted = compose.findings_tls(self.composed, self.composed_tls)
        self.say("compose.tls.yaml", f"{services} of compose.yaml", encrypted)
        self.planted_mistakes()
        self.broken_copies()
        self.comparison()
        return 1 if self.failed else 0

    def lint(self):
        found = []
        for file, values in self.good.items():
            for version in (self.versions[0], self.versions[-1]):
                found += [f"{file}: {message}" for message in chart.lint(self.folder, values, version)]
        self.say("lint", f"{len(self.good)} sets of values", found)

    def renderings(self):
        found, validated = [], 0
        for file, values in self.good.items():
            for version in [OLDEST_RENDERED] + self.versions:
                objects = chart.render(self.folder, values, version)
                here = invariants.findings(objects)
                if version in self.versions:
                    here += schemas.findings(objects, version)
                    validated += len(objects)
                found += [f"{file}, Kubernetes {version}: {finding}" for finding in here]
        looked_at = f"{validated} objects by the schemas of Kubernetes {self.versions[0]} to {self.versions[-1]}"
        self.say("renderings", f"{looked_at}; {len(invariants.RULES)} rules of our own from {OLDEST_RENDERED}", found)

    def refusals(self):
        found = []
        for path in self.bad:
            expected = path.read_text().splitlines()[0].removeprefix("# refused: ")
            refusal = chart.refusal(self.folder, chart.load(path), self.versions[-1])
            if refusal is None:
                found.append(f"{path.name}: was not refused")
            elif expected not in refusal:
                found.append(f"{path.name}: was refused without naming {expected}: {refusal}")
        self.say("bad values", f"{len(self.bad)} files are refused, each by its key", found)

    def planted_mistakes(self):
        values = self.good["production.yaml"] | {"monitoring": {"serviceMonitor": {"enabled": True}}}
        newest = self.versions[-1]
        files = ("tls-cert-manager-values.yaml", "auth-values.yaml")
        objects, encrypted, with_tokens = [
            chart.render(self.folder, values, newest) for values in [values] + [self.good[file] for file in files]
        ]
        found = planted.findings(objects, encrypted, with_tokens, self.composed, self.composed_tls, self.deploy, newest)
        self.say("planted mistakes", f"{planted.count()} are found", found)

    def broken_copies(self):
        """Mistakes in the chart's files, each planted in a copy of it."""
        newest, found = self.versions[-1], []
        for what, file, change, look in planted.IN_FILES:
            with tempfile.TemporaryDirectory() as folder:
                copied = shutil.copytree(self.folder, pathlib.Path(folder) / "fulcrum")
                text = (copied / file).read_text() if (copied / file).exists() else ""
                (copied / file).write_text(change(text))
                if not look(copied, newest):
                    found.append(f"planted, and not found: {what}")
        self.say("broken copies", f"{len(planted.IN_FILES)} are found", found)

    def comparison(self):
        if self.kubectl is None:
            print("NOT RUN  k8s/ beside the chart: there is no kubectl")
            return
        found, compared = [], 0
        for folder, files in kustomize.PAIRS.items():
            values = {key: value for file in files for key, value in self.good[file].items()}
            try:
                ours = kustomize.built(self.kubectl, self.kustomize_folder / folder)
            except ValueError as error:
                found.append(str(error))
                continue
            charts = kustomize.without_helm(chart.render(self.folder, values, self.versions[-1]))
            compared += len(charts)
            here = kustomize.differences(ours, charts) + invariants.findings(ours)
            for version in self.versions:
                here += schemas.findings(ours, version)
            found += [f"k8s/{folder}: {finding}" for finding in dict.fromkeys(here)]
        self.say("k8s/ beside the chart", f"{compared} objects are the same", found)


def write(root):
    folder = root / "deploy/helm/fulcrum"
    (folder / "README.md").write_text(readme.written(folder))
    rules.write(root / "deploy")
    kustomize.write_base(root / "k8s/base", chart.render(folder, {}, schemas.versions()[-1]))
    print("written: deploy/helm/fulcrum/README.md and files, k8s/base")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=pathlib.Path, required=True, help="folder of the repository")
    parser.add_argument("--kubectl", help="the program; without it k8s/ is not compared")
    parser.add_argument("--write", action="store_true", help="write what is made from the chart")
    arguments = parser.parse_args()
    return write(arguments.root) if arguments.write else Check(arguments.root, arguments.kubectl).run()


if __name__ == "__main__":
    sys.exit(main())
