#!/bin/sh
# object-servers.sh: builds the object stores that the tests of imports and exports use: fake-gcs-server, an emulator of Google Cloud Storage,
# and versitygw, a server that speaks Amazon S3. They are Go programs, in the versions below. They go into a folder of their own, so that the
# binary and its go.mod have none of them. The tests use those that are there; what can't be built is said and is no error.
set -eu

folder=${SEALANE_OBJECT_SERVERS:-${XDG_CACHE_HOME:-$HOME/.cache}/sealane/object-servers}

for server in github.com/fsouza/fake-gcs-server@v1.56.1 github.com/versity/versitygw/cmd/versitygw@v1.8.0; do
	version=${server#*@}
	name=${server%@*}
	name=${name##*/}
	[ ! -x "$folder/$name-$version" ] || continue
	echo "building $name $version for the tests"
	mkdir -p "$folder/building"
	if GOFLAGS=-trimpath GOBIN=$folder/building CGO_ENABLED=0 ${GO:-go} install -ldflags '-s -w' "$server"; then
		mv "$folder/building/$name" "$folder/$name-$version"
	else
		echo "NOT TESTED WITH: $name (see above why)" >&2
	fi
done
rm -rf "$folder/building"
