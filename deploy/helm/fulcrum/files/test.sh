# Every command has its own deadline and exit code; -e ends the test at the first that fails.
# A token goes over a connection without encryption only if that is said.
fulcrum() {
  command fulcrum ${TOKEN_IN_CLEAR:+--token-in-clear} "$@"
}

keyspace="helm-test-$(date +%s)"
fulcrum keyspace create "$keyspace" --groups 2 --replication-factor "$REPLICATION_FACTOR"
trap 'fulcrum keyspace drop "$keyspace" --yes' EXIT

fulcrum put "$keyspace" stock/apples 1 --deadline 30s
test "$(fulcrum get "$keyspace" stock/apples)" = 1

fulcrum txn run -e "if $keyspace stock/apples = 1" -e "delete $keyspace stock/apples" -e "put $keyspace orders/7 apples"
test "$(fulcrum get "$keyspace" orders/7)" = apples

# Exit code 3: not found.
code=0
fulcrum get "$keyspace" stock/apples || code=$?
test "$code" = 3
echo "written, read and moved in a transaction"
