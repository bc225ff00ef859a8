package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/instance"
)

// Where a node's engine lives: in slot 0, which is the node's folder itself, or in slot 1 or 2, a folder of that name below it. While an
// engine is replaced there are two of them. The gateway's snapshot on disk says which one the clients are on. (The names are short, and
// there are no more of them, because the path of a socket is bounded.)

// engineDir is the folder of the engine of a slot.
func (l *Runtime) engineDir(nodeID string, slot int) string {
	if slot == 0 {
		return l.nodeDir(nodeID)
	}
	return filepath.Join(l.nodeDir(nodeID), strconv.Itoa(slot))
}

func (l *Runtime) dirOf(node instance.Node) string { return l.engineDir(node.ID, node.Slot) }

// groupName is the name of the cgroup of the engine of a slot.
func groupName(nodeID string, slot int) string {
	if slot == 0 {
		return nodeID
	}
	return nodeID + "-" + strconv.Itoa(slot)
}

// ServedSlot implements EngineReplacer. The gateway's snapshot is on disk before it is served, so it tells also where the gateway has
// ended.
func (l *Runtime) ServedSlot(nodeID string) (int, error) {
	last, err := gateway.LastGood(l.nodeDir(nodeID))
	if err != nil {
		return 0, err
	}
	// The state folder may have been moved since, so only the end of the path counts.
	return slotOf(filepath.Base(filepath.Dir(last.Engine))), nil
}

// slotOf is the slot whose folder has that name; 0 where the name is another.
func slotOf(folder string) int {
	if slot, err := strconv.Atoi(folder); err == nil && slot > 0 && slot <= instance.Slots && len(folder) == 1 {
		return slot
	}
	return 0
}

// slots are those in which a node may have an engine: all that have a folder.
func (l *Runtime) slots(nodeID string) []int {
	slots := []int{0}
	entries, _ := os.ReadDir(l.nodeDir(nodeID)) // where it can't be read, nothing below it can be used either
	for _, e := range entries {
		if slot := slotOf(e.Name()); slot > 0 {
			slots = append(slots, slot)
		}
	}
	return slots
}

// engineFiles are what an engine has in its folder, as package statedir lists them.
var engineFiles = []string{"engine.conf", "engine.sock", "engine.log*", "engine.cgroup", "dump*.rdb*", "temp-*.rdb", "engine.lock"}

// removeEngine ends the engine of a slot, without saving its data, and removes its files.
func (l *Runtime) removeEngine(ctx context.Context, nodeID string, slot int) error {
	dir := l.engineDir(nodeID, slot)
	if err := killListener(ctx, engine.Socket(dir), engine.Lock(dir)); err != nil {
		return err
	}
	removeGroup(dir)
	if slot != 0 {
		return os.RemoveAll(dir)
	}
	var errs []error
	for _, pattern := range engineFiles {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		errs = append(errs, err)
		for _, f := range files {
			errs = append(errs, os.Remove(f))
		}
	}
	return errors.Join(errs...)
}

// removeOtherEngines removes what is left of engines that were replaced, or should have taken the place of this one. It is called
// once the gateway serves the node's own engine.
func (l *Runtime) removeOtherEngines(ctx context.Context, node instance.Node) error {
	for _, slot := range l.slots(node.ID) {
		if slot == node.Slot {
			continue
		}
		if _, err := os.Lstat(filepath.Join(l.engineDir(node.ID, slot), "engine.lock")); slot == 0 && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := l.removeEngine(ctx, node.ID, slot); err != nil {
			return fmt.Errorf("remove the engine that was replaced: %w", err)
		}
	}
	return nil
}
