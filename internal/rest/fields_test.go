package rest

import (
	"encoding/json"
	"testing"

	"cloud.google.com/go/redis/apiv1/redispb"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// What a selector selects is a part of the answer, and of what is selected the same selector selects all.
func FuzzSelector(f *testing.F) {
	for _, seed := range []string{
		"name", "instances(name,nodes/id),nextPageToken", "instances/labels/a", "*", "instances(*)", "instances.nodes(id,zone)", "instances/persistenceConfig/*",
		"instances(labels(a),labels)", "(((", "a/b/c/d", "instances(redisConfigs/maxmemory-policy)", " instances / name ", "instances/createTime/seconds", "unreachable",
	} {
		f.Add(seed)
	}
	list := &redispb.ListInstancesResponse{NextPageToken: "t", Unreachable: []string{"u"}, Instances: []*redispb.Instance{{
		Name: "n", Labels: map[string]string{"a": "b"}, RedisConfigs: map[string]string{"maxmemory-policy": "noeviction"}, CreateTime: timestamppb.Now(),
		Nodes: []*redispb.NodeInfo{{Id: "i", Zone: "z"}}, PersistenceConfig: &redispb.PersistenceConfig{PersistenceMode: 2},
	}}}
	raw, err := protojson.Marshal(list)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseSelector(text, list.ProtoReflect().Descriptor(), nil)
		if err != nil {
			return
		}
		var whole any
		if err := json.Unmarshal(raw, &whole); err != nil {
			t.Fatal(err)
		}
		part := s.apply(whole)
		if !within(part, whole) {
			t.Errorf("%q selects %v, which is not of the answer", text, part)
		}
		if again := s.apply(part); !within(part, again) || !within(again, part) {
			t.Errorf("%q selects %v of %v, which it had selected", text, again, part)
		}
	})
}

// within says whether all that is in a JSON value is at the same place in another one.
func within(part, whole any) bool {
	switch p := part.(type) {
	case map[string]any:
		w, ok := whole.(map[string]any)
		for name, value := range p {
			if other, there := w[name]; !there || !within(value, other) {
				return false
			}
		}
		return ok
	case []any:
		w, ok := whole.([]any)
		for n := range p {
			if !ok || len(w) != len(p) || !within(p[n], w[n]) {
				return false
			}
		}
		return ok
	}
	return part == whole
}
