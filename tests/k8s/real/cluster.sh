#!/usr/bin/env bash
# A Kubernetes 1.20 on this machine: control plane as processes of it, machines as docker containers.
#
# Promise: `up` ends with three Ready nodes, DNS, volumes and the images loaded; it may be run again, and does what is missing. `down` ends and removes what `up` has
# made, and nothing else: processes by number, moment of start and program, containers, volumes, network and routes by name.
#
#   control plane   etcd, kube-apiserver, kube-controller-manager, kube-scheduler, DNS; they listen on the gateway of the docker network
#   fulcrum-k8s-N   container with docker, kubelet and kube-proxy; pods are 10.244.N.0/24, routed by this machine and by the others
#   volumes         local ones, in each machine's docker volume; storage class `local`
#
# It touches this machine: a docker network, three containers with most capabilities, routes to pods. The processes run as whoever calls, which has to be root.
# Encryption is there, trust is not: any token of the file is everybody. It is for tests on one machine.
#
# Usage: cluster.sh up|down|status CACHE    (environment: ETCD, the program; IMAGE, an image to load, default fulcrum:0.1.0)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
command=$1
cache=$(realpath -m "$2")
run=$cache/run
name=fulcrum-k8s
subnet=172.31.9
gateway=$subnet.1
api=https://$gateway:6443
numbers=(1 2 3)
volumes_each=6
image=${IMAGE:-fulcrum:0.1.0}
etcd_image=$name-etcd:3.4
pause_image=$name-pause:1
export KUBECONFIG=$run/kubeconfig

say() { echo "k8s: $*"; }
fail() { echo "k8s: $*" >&2; exit 1; }
kube() { kubectl --request-timeout=20s "$@"; }

# --- processes of the control plane, and the ledger by which they are ended -------------------------------------------------

started_at() { cut -d' ' -f22 "/proc/$1/stat" 2>/dev/null; }

runs() {
    local pid moment
    [ -f "$run/pids/$1" ] || return 1
    read -r pid moment <"$run/pids/$1"
    [ "$(started_at "$pid")" = "$moment" ]
}

launch() {
    local what=$1 pid
    shift
    runs "$what" && return
    setsid "$@" >>"$run/logs/$what.log" 2>&1 </dev/null &
    pid=$!
    echo "$pid $(started_at "$pid")" >"$run/pids/$what"
}

end_process() {
    local pid moment
    runs "$1" || { rm -f "$run/pids/$1"; return 0; }
    read -r pid moment <"$run/pids/$1"
    kill "$pid"
    for _ in $(seq 50); do runs "$1" || break; sleep 0.1; done
    if runs "$1"; then kill -9 "$pid"; fi
    rm -f "$run/pids/$1"
}

until_true() {
    local what=$1 tries=$2
    shift 2
    for _ in $(seq "$tries"); do "$@" >/dev/null 2>&1 && return; sleep 1; done
    fail "$what: not seen within $tries s. Logs: $run/logs, and /var/log in the containers $name-1 to -3"
}

# --- up ---------------------------------------------------------------------------------------------------------------------

network() {
    docker network inspect "$name" >/dev/null 2>&1 ||
        docker network create --subnet "$subnet.0/24" --gateway "$gateway" -o com.docker.network.bridge.name=fulcrum-k8s "$name" >/dev/null
    for number in "${numbers[@]}"; do
        ip route replace "10.244.$number.0/24" via "$subnet.1$number" dev fulcrum-k8s onlink
    done
}

secrets() {
    [ -f "$run/tokens.csv" ] && return
    local token
    token=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    openssl genrsa -out "$run/service-accounts.key" 2048 2>/dev/null
    openssl rsa -in "$run/service-accounts.key" -pubout -out "$run/service-accounts.pub" 2>/dev/null
    cat >"$KUBECONFIG" <<KUBECONFIG
apiVersion: v1
kind: Config
clusters: [{name: real, cluster: {server: "$api", insecure-skip-tls-verify: true}}]
users: [{name: tester, user: {token: "$token"}}]
contexts: [{name: real, context: {cluster: real, user: tester}}]
current-context: real
KUBECONFIG
    chmod 600 "$KUBECONFIG"
    (umask 077 && echo "$token,tester,tester,\"system:masters\"" >"$run/tokens.csv")
}

token() { cut -d, -f1 "$run/tokens.csv"; }

control_plane() {
    launch etcd "$ETCD" --name control --data-dir "$run/etcd" --listen-client-urls "http://127.0.0.1:23790" --advertise-client-urls "http://127.0.0.1:23790" \
        --listen-peer-urls "http://127.0.0.1:23800" --initial-advertise-peer-urls "http://127.0.0.1:23800" --initial-cluster "control=http://127.0.0.1:23800" \
        --unsafe-no-fsync
    launch kube-apiserver "$cache/bin/kube-apiserver" --etcd-servers=http://127.0.0.1:23790 --bind-address="$gateway" --advertise-address="$gateway" \
        --secure-port=6443 --cert-dir="$run/certificates" --token-auth-file="$run/tokens.csv" --authorization-mode=AlwaysAllow \
        --service-cluster-ip-range=10.96.0.0/16 --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$run/service-accounts.pub" \
        --service-account-signing-key-file="$run/service-accounts.key" --kubelet-preferred-address-types=InternalIP --allow-privileged=true
    until_true "the API server answers" 90 kube get --raw /readyz
    launch kube-controller-manager "$cache/bin/kube-controller-manager" --kubeconfig="$KUBECONFIG" --leader-elect=false --bind-address=127.0.0.1 \
        --service-account-private-key-file="$run/service-accounts.key" --root-ca-file="$run/certificates/apiserver.crt" --use-service-account-credentials=false \
        --node-monitor-grace-period=20s --cluster-cidr=10.244.0.0/16 --allocate-node-cidrs=false
    launch kube-scheduler "$cache/bin/kube-scheduler" --kubeconfig="$KUBECONFIG" --leader-elect=false --bind-address=127.0.0.1
    launch dns python3 "$here/dns.py" "$api" "$(token)" "$gateway"
}

images() {
    local context=$run/image
    docker image inspect "$image" >/dev/null 2>&1 || fail "there is no image $image: cargo xtask image makes it"
    rm -rf "$context" && mkdir -p "$context"
    if ! docker image inspect "$pause_image" >/dev/null 2>&1; then
        # What sleeps as a first process is deaf to SIGTERM, and every pod would take 10 s to go.
        printf 'FROM debian:bookworm-slim\nSTOPSIGNAL SIGKILL\nCMD ["sleep", "infinity"]\n' | docker build -q -t "$pause_image" - >/dev/null
    fi
    if ! docker image inspect "$etcd_image" >/dev/null 2>&1; then
        cp "$ETCD" "$context/etcd"
        printf 'FROM debian:bookworm-slim\nCOPY etcd /usr/bin/etcd\nUSER 10001\n' >"$context/Dockerfile"
        docker build -q -t "$etcd_image" "$context" >/dev/null
    fi
    if ! docker image inspect "$name-node:1.20" >/dev/null 2>&1; then
        say "building the image of a machine"
        rm -rf "$context" && cp -r "$here/node" "$context"
        cp "$cache/bin/kubelet" "$cache/bin/kube-proxy" "$context/"
        docker build -q --network host -t "$name-node:1.20" "$context" >/dev/null
    fi
    rm -rf "$context"
}

# All that docker knows by name, but what not every machine can give away (CAP_SYS_RESOURCE): --privileged would ask for it.
capabilities() {
    local one
    for one in AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE \
        LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN NET_BIND_SERVICE NET_BROADCAST NET_RAW SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN \
        SYS_BOOT SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_TIME SYS_TTY_CONFIG WAKE_ALARM; do
        echo "--cap-add=$one"
    done
}

machine() {
    local number=$1 node=$name-$1
    if docker container inspect "$node" >/dev/null 2>&1; then
        docker start "$node" >/dev/null
        return
    fi
    # shellcheck disable=SC2046 # one word each
    docker run -d --name "$node" --hostname "$node" --network "$name" --ip "$subnet.1$number" $(capabilities) --cap-drop=SYS_RESOURCE \
        --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined --cgroupns=private \
        --device-cgroup-rule 'a *:* rwm' -v "$node-engine:/var/lib/docker" -v "$node-volumes:/var/local/volumes" -v "$node-kubelet:/var/lib/kubelet" \
        -e NODE_NAME="$node" -e NODE_IP="$subnet.1$number" -e POD_CIDR="10.244.$number.0/24" -e API="$api" -e TOKEN="$(token)" -e DNS="$gateway" -e PEERS="$(peers "$number" | xargs)" \
        "$name-node:1.20" >/dev/null
}

peers() {
    local number=$1 other
    for other in "${numbers[@]}"; do
        [ "$other" = "$number" ] || echo "10.244.$other.0/24=$subnet.1$other"
    done
}

load() {
    local node=$1 one id
    for one in "$image" "$etcd_image" "$pause_image"; do
        id=$(docker image inspect -f '{{.Id}}' "$one")
        [ "$(docker exec "$node" docker image inspect -f '{{.Id}}' "$one" 2>/dev/null)" = "$id" ] || docker save "$one" | docker exec -i "$node" docker load -q
    done
}

volumes() {
    local node=$1 number
    for number in $(seq "$volumes_each"); do
        docker exec "$node" mkdir -p "/var/local/volumes/$number"
        cat <<VOLUME
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: $node-$number}
spec:
  capacity: {storage: 20Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: local
  local: {path: /var/local/volumes/$number}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [$node]}]}]}}
VOLUME
    done | kube apply -f - >/dev/null
}

up() {
    [ "$(id -u)" = 0 ] || fail "needs root: it makes routes and starts containers with capabilities"
    mkdir -p "$run/pids" "$run/logs"
    network
    secrets
    control_plane
    say "the control plane answers: $(kube version -o json | python3 -c 'import json, sys; print(json.load(sys.stdin)["serverVersion"]["gitVersion"])')"
    images
    for number in "${numbers[@]}"; do machine "$number"; done
    for number in "${numbers[@]}"; do
        until_true "the container engine of $name-$number answers" 60 docker exec "$name-$number" docker version
        load "$name-$number"
    done
    kube apply -f - >/dev/null <<CLASS
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: local, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
CLASS
    for number in "${numbers[@]}"; do
        until_true "the node $name-$number is there" 60 kube get node "$name-$number"
        volumes "$name-$number"
    done
    kube wait --for=condition=Ready nodes --all --timeout=90s --request-timeout=100s >/dev/null
    say "3 nodes are ready: export KUBECONFIG=$KUBECONFIG"
}

# --- down, status -----------------------------------------------------------------------------------------------------------

down() {
    local number what
    for number in "${numbers[@]}"; do
        docker unpause "$name-$number" >/dev/null 2>&1 || true
        docker rm -f -v "$name-$number" >/dev/null 2>&1 || true
        for what in engine volumes kubelet; do docker volume rm "$name-$number-$what" >/dev/null 2>&1 || true; done
        ip route del "10.244.$number.0/24" dev fulcrum-k8s 2>/dev/null || true
    done
    for what in dns kube-scheduler kube-controller-manager kube-apiserver etcd; do end_process "$what"; done
    docker network rm "$name" >/dev/null 2>&1 || true
    rm -rf "$run"
    say "all is gone; the programs stay in $cache/bin, images in docker ($name-*)"
}

status() {
    local what
    for what in etcd kube-apiserver kube-controller-manager kube-scheduler dns; do
        if runs "$what"; then say "$what runs"; else say "$what does not run"; fi
    done
    docker ps -a --filter "name=^$name-[0-9]" --format '{{.Names}}: {{.Status}}'
    [ -f "$KUBECONFIG" ] || return 0
    kube get nodes,pods -A -o wide
}

case $command in
up) up ;;
down) down ;;
status) status ;;
*) fail "usage: cluster.sh up|down|status CACHE" ;;
esac
