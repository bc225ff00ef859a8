package gateway_test

import (
	"testing"
	"time"

	"github.com/sealane/sealane/internal/gateway"
)

func TestOneLogLineASecondPerTopic(t *testing.T) {
	t.Parallel()
	allow, now := gateway.LogLimiterForTest(), time.Unix(1e9, 0)
	for _, step := range []struct {
		topic      string
		after      time.Duration
		ok         bool
		suppressed uint64
	}{
		{"a", 0, true, 0},
		{"a", 1, false, 0},
		{"b", 0, true, 0},
		{"a", 900 * time.Millisecond, false, 0},
		{"a", 100 * time.Millisecond, true, 2},
		{"a", time.Second, true, 0},
		{"b", 0, true, 0},
	} {
		now = now.Add(step.after)
		if n, ok := allow(step.topic, now); ok != step.ok || n != step.suppressed {
			t.Errorf("%s at %v: %v, %d; want %v, %d", step.topic, now.UnixNano(), ok, n, step.ok, step.suppressed)
		}
	}
}
