#!/bin/sh
# grpc-go reads the whole request of a unary call before a server's interceptor may look at its headers.
#
# Version: google.golang.org/grpc v1.85.0 with golang.org/x/net v0.61.0, Go 1.26.
# Behaviour: an interceptor of grpc.UnaryInterceptor is where servers check tokens. For a call whose headers have arrived (no token)
# and whose body has not, it is not called, and the caller gets no answer, for as long as the caller likes. When the body comes, all of it is
# read, up to MaxRecvMsgSize, and only then the call is refused. A handle of grpc.InTapHandle (experimental) is called as soon as
# the headers are there, and refuses at once.
# For whoever puts a grpc-go server where callers without a token can reach it: what such a caller costs is decided by the limits of
# the transport, and not by the interceptor that turns it away.
#
# Output seen:
#   interceptor: called before the body: false; answered before the body: false; after it: Unauthenticated
#   InTapHandle: called before the body: true; answered before the body: true
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat >go.mod <<'M'
module finding

go 1.26

require (
	golang.org/x/net v0.61.0
	google.golang.org/grpc v1.85.0
)
M
cat >main.go <<'G'
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
)

var refuse = status.Error(codes.Unauthenticated, "no token")

// caller begins a call, sends its headers and waits; then it sends the body.
func caller(address string) (early, late string) {
	conn, err := net.Dial("tcp", address)
	check(err)
	defer conn.Close()
	_, err = io.WriteString(conn, http2.ClientPreface)
	check(err)
	f := http2.NewFramer(conn, conn)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	check(f.WriteSettings())
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, h := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", "/grpc.health.v1.Health/Check"}, {":authority", "x"},
		{"content-type", "application/grpc"}, {"te", "trailers"},
	} {
		enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	check(f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true}))
	answers := make(chan string, 1)
	go func() {
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				answers <- err.Error()
				return
			}
			if h, ok := frame.(*http2.MetaHeadersFrame); ok {
				for _, field := range h.Fields {
					if field.Name == "grpc-status" {
						answers <- field.Value
						return
					}
				}
			}
		}
	}()
	select {
	case early = <-answers:
		return early, ""
	case <-time.After(3 * time.Second):
	}
	before.Store(called.Load())
	check(f.WriteData(1, true, []byte{0, 0, 0, 0, 0}))
	return "", <-answers
}

var called, before atomic.Bool

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func serve(opt grpc.ServerOption) string {
	s := grpc.NewServer(opt)
	healthpb.RegisterHealthServer(s, health.NewServer())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	go s.Serve(l)
	return l.Addr().String()
}

func main() {
	early, late := caller(serve(grpc.UnaryInterceptor(func(context.Context, any, *grpc.UnaryServerInfo, grpc.UnaryHandler) (any, error) {
		called.Store(true)
		return nil, refuse
	})))
	if late == fmt.Sprint(int(codes.Unauthenticated)) {
		late = codes.Unauthenticated.String()
	}
	fmt.Printf("interceptor: called before the body: %v; answered before the body: %v; after it: %s\n", before.Load(), early != "", late)
	called.Store(false)
	early, _ = caller(serve(grpc.InTapHandle(func(ctx context.Context, _ *tap.Info) (context.Context, error) {
		called.Store(true)
		return ctx, refuse
	})))
	fmt.Printf("InTapHandle: called before the body: %v; answered before the body: %v\n", called.Load(), early != "")
}
G
go mod tidy >/dev/null 2>&1
go run . | tee output
cmp -s - output <<'O' || { echo "it has changed"; exit 1; }
interceptor: called before the body: false; answered before the body: false; after it: Unauthenticated
InTapHandle: called before the body: true; answered before the body: true
O
