#!/usr/bin/env bash
# Faults on a Kubernetes, from nothing to a report.
#
#   tests/chaos/kind/run.sh                    a kind cluster is made, used and deleted: needs docker, kind, kubectl and helm
#   tests/chaos/kind/run.sh --real             on the cluster of `cargo xtask k8s up`, which stays
#
# Environment: SCENARIOS (default: all that pods can do), RUNS (3), KEEP=1 (the kind cluster stays), ETCD_IMAGE (default: what the chart names).
# The report is target/chaos/kind/report.md; the exit code is that of `cargo xtask chaos`. A run that did not hold has its evidence in target/chaos/kind/failed,
# and with kind the logs of the whole cluster in target/chaos/kind/cluster.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
cluster=fulcrum-chaos
scenarios=${SCENARIOS:-all}
runs=${RUNS:-3}
cd "$root"

need() {
    local program missing=()
    for program in "$@"; do command -v "$program" >/dev/null || missing+=("$program"); done
    [ ${#missing[@]} = 0 ] || { echo "this needs ${missing[*]}: install it, then run this again" >&2; exit 3; }
}

chaos() {
    cargo xtask chaos --release --backend kind --nodes 3 --namespace fulcrum --release-name fulcrum --scenario "$scenarios" --runs "$runs"
}

on_real() {
    need docker kubectl python3
    export KUBECONFIG=$root/target/k8s/run/kubeconfig
    [ -f "$KUBECONFIG" ] || { echo "there is no cluster: cargo xtask k8s up" >&2; exit 3; }
    cargo xtask k8s test --only install --values "$here/chaos-values.yaml"
    chaos
}

on_kind() {
    need docker kind kubectl helm
    local version etcd code=0
    version=$(sed -n 's/^appVersion: //p' deploy/helm/fulcrum/Chart.yaml)
    etcd=${ETCD_IMAGE:-quay.io/coreos/etcd:v3.5.21}
    docker image inspect "fulcrum:$version" >/dev/null 2>&1 || cargo xtask image
    docker image inspect "$etcd" >/dev/null 2>&1 || docker pull "$etcd"
    # What this has made it deletes, however it ends.
    [ -n "${KEEP:-}" ] || trap 'kind delete cluster --name "$cluster"' EXIT
    kind create cluster --name "$cluster" --config "$here/kind.yaml" --wait 120s
    kind load docker-image --name "$cluster" "fulcrum:$version" "$etcd"
    kubectl config use-context "kind-$cluster"
    helm install fulcrum deploy/helm/fulcrum --namespace fulcrum --create-namespace --wait --timeout 5m \
        --values "$here/ci-values.yaml" --values "$here/chaos-values.yaml" --set "etcd.image.repository=${etcd%:*}" --set "etcd.image.tag=${etcd##*:}"
    helm test fulcrum --namespace fulcrum
    chaos || code=$?
    [ "$code" = 0 ] || kind export logs --name "$cluster" target/chaos/kind/cluster
    return "$code"
}

case ${1:-} in
--real) on_real ;;
'') on_kind ;;
*) sed -n 's/^# \{0,1\}//p' "${BASH_SOURCE[0]}" | head -n 9 >&2; exit 2 ;;
esac
