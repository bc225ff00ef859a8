//go:build ignore

// Command imports writes the descriptors that our .proto files import, for protoc --descriptor_set_in. It takes them from the
// Go modules of go.mod, so no copy of Google's files is kept or downloaded.
package main

import (
	"log"
	"os"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"cloud.google.com/go/redis/apiv1/redispb"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func main() {
	set := &descriptorpb.FileDescriptorSet{}
	seen := make(map[string]bool)
	var add func(protoreflect.FileDescriptor)
	add = func(f protoreflect.FileDescriptor) {
		if seen[f.Path()] {
			return
		}
		seen[f.Path()] = true
		for i := range f.Imports().Len() { // protoc wants a file after those that it imports
			add(f.Imports().Get(i).FileDescriptor)
		}
		set.File = append(set.File, protodesc.ToFileDescriptorProto(f))
	}
	for _, f := range []protoreflect.FileDescriptor{
		annotations.File_google_api_annotations_proto,
		annotations.File_google_api_field_behavior_proto,
		fieldmaskpb.File_google_protobuf_field_mask_proto,
		durationpb.File_google_protobuf_duration_proto,
		timestamppb.File_google_protobuf_timestamp_proto,
		longrunningpb.File_google_longrunning_operations_proto,
		redispb.File_google_cloud_redis_v1_cloud_redis_proto,
	} {
		add(f)
	}
	raw, err := proto.Marshal(set)
	if err == nil {
		_, err = os.Stdout.Write(raw)
	}
	if err != nil {
		log.Fatal(err)
	}
}
