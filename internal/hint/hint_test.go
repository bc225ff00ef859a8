package hint_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/sealane/sealane/internal/hint"
)

func TestTheOutermostHintIsFoundThroughAChain(t *testing.T) {
	t.Parallel()
	cause := errors.New("no space")
	inner := hint.Wrap(fmt.Errorf("write: %w", cause), "free %d bytes", 10)
	outer := fmt.Errorf("start: %w", inner)
	if got := hint.Of(outer); got != "free 10 bytes" {
		t.Errorf("%q", got)
	}
	if got := hint.Of(hint.Wrap(outer, "try again")); got != "try again" {
		t.Errorf("%q", got)
	}
	if !errors.Is(outer, cause) || outer.Error() != "start: write: no space" {
		t.Errorf("%v", outer)
	}
	if hint.Of(cause) != "" || hint.Of(nil) != "" {
		t.Error("a hint from nowhere")
	}
}
