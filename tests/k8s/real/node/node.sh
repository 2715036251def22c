#!/bin/bash
# The first process of a machine: prepares it, starts the container engine, kube-proxy and the kubelet, and stays.
#
# Environment: NODE_NAME, NODE_IP, POD_CIDR, PEERS (NETWORK=ADDRESS, one a word), API, TOKEN, DNS. What is done here is what a machine's own start does elsewhere; it is done again after every
# restart of the container.
set -euo pipefail

mount --make-rshared /
for cgroup in /sys/fs/cgroup /sys/fs/cgroup/*/; do mount -o remount,bind,rw "$cgroup" 2>/dev/null || true; done
mount -o remount,rw /sys 2>/dev/null || true
[ -e /dev/kmsg ] || mknod /dev/kmsg c 1 11
[ -s /etc/machine-id ] || tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id
sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0
for peer in $PEERS; do ip route replace "${peer%=*}" via "${peer#*=}"; done
rm -f /var/run/docker.pid /var/run/docker/containerd/containerd.pid

mkdir -p /etc/cni/net.d /etc/kubernetes /var/local/volumes /var/lib/kubelet
cat >/etc/cni/net.d/10-pods.conflist <<CNI
{"cniVersion": "0.3.1", "name": "pods", "plugins": [
  {"type": "ptp", "ipMasq": false, "ipam": {"type": "host-local", "ranges": [[{"subnet": "$POD_CIDR"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
CNI
cat >/etc/kubernetes/kubeconfig <<KUBECONFIG
apiVersion: v1
kind: Config
clusters: [{name: real, cluster: {server: "$API", insecure-skip-tls-verify: true}}]
users: [{name: node, user: {token: "$TOKEN"}}]
contexts: [{name: real, context: {cluster: real, user: node}}]
current-context: real
KUBECONFIG
# Nothing is evicted for the disk of the machine below, which is not this one's.
cat >/etc/kubernetes/kubelet.yaml <<KUBELET
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
clusterDNS: ["$DNS"]
clusterDomain: cluster.local
cgroupDriver: cgroupfs
failSwapOn: false
oomScoreAdj: 0
enforceNodeAllocatable: []
evictionHard: {memory.available: 50Mi}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
nodeStatusUpdateFrequency: 4s
KUBELET

ulimit -n 65536 2>/dev/null || true
dockerd --iptables=false --ip-masq=false --bridge=none --oom-score-adjust=0 \
    --add-runtime without-oom=/usr/local/bin/runc-without-oom --default-runtime without-oom >/var/log/dockerd.log 2>&1 &
for _ in $(seq 100); do docker version >/dev/null 2>&1 && break; sleep 0.3; done
docker version >/dev/null

kube-proxy --kubeconfig=/etc/kubernetes/kubeconfig --hostname-override="$NODE_NAME" --proxy-mode=iptables --cluster-cidr=10.244.0.0/16 \
    --oom-score-adj=0 --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0 >/var/log/kube-proxy.log 2>&1 &
kubelet --kubeconfig=/etc/kubernetes/kubeconfig --config=/etc/kubernetes/kubelet.yaml --hostname-override="$NODE_NAME" --node-ip="$NODE_IP" \
    --network-plugin=cni --cni-bin-dir=/usr/lib/cni --cni-conf-dir=/etc/cni/net.d --pod-infra-container-image=fulcrum-k8s-pause:1 \
    --node-labels="topology.kubernetes.io/zone=zone-${NODE_NAME##*-}" >/var/log/kubelet.log 2>&1 &
wait -n
echo "a process of $NODE_NAME has ended: see /var/log" >&2
exit 1
