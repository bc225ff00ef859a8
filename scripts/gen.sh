#!/bin/sh
# gen.sh: makes gen/ from proto/. The version of the gRPC plugin is pinned here. protoc-gen-go has the version of the protobuf
# module in go.mod.
set -eu
cd "$(dirname "$0")/.."
grpc_plugin=v1.6.2

scripts/need.sh protoc
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export GOBIN="$work/bin"
go install google.golang.org/protobuf/cmd/protoc-gen-go
go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@$grpc_plugin

go run scripts/imports.go >"$work/imports"
find gen -name '*.pb.go' -delete
PATH="$GOBIN:$PATH" protoc --proto_path=proto --descriptor_set_in="$work/imports" \
	--go_out=gen --go_opt=module=github.com/sealane/sealane/gen \
	--go-grpc_out=gen --go-grpc_opt=module=github.com/sealane/sealane/gen \
	$(cd proto && find . -name '*.proto' | sed 's,^\./,,' | sort)
