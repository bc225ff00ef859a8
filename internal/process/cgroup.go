package process

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A group is the memory cgroup of one process and its children.
type group struct {
	dir string
	v2  bool
}

// groupPrefix begins the name of each group that this package makes.
const groupPrefix = "sealane-"

// removeTime bounds the wait until the last process has left a group.
const removeTime = time.Second

func (g group) name() string {
	if g.v2 {
		return "cgroup v2"
	}
	return "cgroup v1"
}

func (g group) write(file string, value int64) error {
	// There is no O_CREATE, so that nothing is made on a file system that is not of cgroups.
	f, err := os.OpenFile(filepath.Join(g.dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strconv.FormatInt(value, 10))
	return errors.Join(err, f.Close())
}

// limitFile is the name of the file with the limit.
func (g group) limitFile() string {
	if g.v2 {
		return "memory.max"
	}
	return "memory.limit_in_bytes"
}

// limit is the limit of the group's memory in bytes, and 0 where there is none.
func (g group) limit() int64 {
	b, err := os.ReadFile(filepath.Join(g.dir, g.limitFile()))
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	const unlimited = 1 << 62 // without a limit v1 shows a number above this, and v2 "max"
	if err != nil || n >= unlimited {
		return 0
	}
	return n
}

// setLimit limits memory, and memory with swap. A group that has a limit may get another one.
func (g group) setLimit(limit int64) error {
	swapFile, swap := "memory.memsw.limit_in_bytes", limit
	if g.v2 {
		swapFile, swap = "memory.swap.max", 0
	}
	setSwap := func() error {
		if err := g.write(swapFile, swap); !errors.Is(err, fs.ErrNotExist) { // kernels may count no swap
			return err
		}
		return nil
	}
	// In v1 the limit of memory with swap may at no time be below that of memory. So a raise begins with the one, and anything else
	// with the other.
	if have := g.limit(); !g.v2 && have > 0 && have < limit {
		return errors.Join(setSwap(), g.write(g.limitFile(), limit))
	}
	return errors.Join(g.write(g.limitFile(), limit), setSwap())
}

// oomKills is how many processes of the group the kernel has killed for want of memory.
func (g group) oomKills() int64 {
	file := "memory.oom_control"
	if g.v2 {
		file = "memory.events"
	}
	b, err := os.ReadFile(filepath.Join(g.dir, file))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
			kills, _ := strconv.ParseInt(strings.TrimSpace(n), 10, 64)
			return kills
		}
	}
	return 0
}

// remove removes the group once its last process has left it.
func (g group) remove() error {
	for end := time.Now().Add(removeTime); ; time.Sleep(5 * time.Millisecond) {
		err := os.Remove(g.dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return fmt.Errorf("remove cgroup: %w", err)
		}
	}
}

// makeGroup makes a group with that name below this process's own, so that what limits this process limits the group too.
func makeGroup(name string) (group, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return group{}, err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return group{}, err
	}
	self, err := memoryGroup(mounts, own)
	if err != nil {
		return group{}, err
	}
	if !self.v2 {
		g := group{dir: filepath.Join(self.dir, groupPrefix+name)}
		return g, mkdir(g.dir)
	}
	var errs []error
	for _, parent := range parentsV2(self.dir) {
		if err := enableMemory(parent); err != nil {
			errs = append(errs, err)
			continue
		}
		g := group{filepath.Join(parent, groupPrefix+name), true}
		if err := mkdir(g.dir); err != nil {
			errs = append(errs, err)
			continue
		}
		return g, nil
	}
	return group{}, errors.Join(errs...)
}

func mkdir(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// parentsV2 are the groups below which a group may be made in version 2. There a group with limited children can't hold processes.
// So it is the process's own group only where that is the root. It is the group above where systemd has delegated that
// (Delegate=memory and DelegateSubgroup=). For the user root it is also a group of Sealane's own.
func parentsV2(self string) []string {
	parents := []string{self}
	above := filepath.Dir(self)
	for _, attr := range []string{"user.delegate", "trusted.delegate"} {
		buf := make([]byte, 8)
		if n, err := unix.Getxattr(above, attr, buf); err == nil && string(buf[:n]) == "1" {
			parents = append(parents, above)
			break
		}
	}
	if os.Geteuid() == 0 {
		for root := above; ; root = filepath.Dir(root) {
			if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
				break
			}
			if _, err := os.Stat(filepath.Join(root, "cgroup.type")); err != nil { // the root alone has none
				if dir := filepath.Join(root, "sealane"); enableMemory(root) == nil && mkdir(dir) == nil {
					parents = append(parents, dir)
				}
				break
			}
		}
	}
	return parents
}

// enableMemory lets the children of a group be limited.
func enableMemory(dir string) error {
	file := filepath.Join(dir, "cgroup.subtree_control")
	have, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if slices.Contains(strings.Fields(string(have)), "memory") {
		return nil
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString("+memory")
	return errors.Join(err, f.Close())
}

// groupOf is the memory cgroup of another process.
func groupOf(pid int) (group, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return group{}, err
	}
	its, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return group{}, err
	}
	return memoryGroup(mounts, its)
}

// errNoController says that the system limits no memory, or doesn't let this process see how.
var errNoController = errors.New("no memory cgroup is mounted")

// memoryGroup finds the memory cgroup of a process by /proc/self/mountinfo and the process's /proc/PID/cgroup; see cgroups(7).
func memoryGroup(mountinfo, cgroup []byte) (group, error) {
	v1, v2, hasV1 := "", "", false
	for line := range strings.Lines(string(cgroup)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		switch {
		case len(f) < 3:
		case slices.Contains(strings.Split(f[1], ","), "memory"):
			v1, hasV1 = f[2], true
		case f[0] == "0" && f[1] == "":
			v2 = f[2]
		}
	}
	for lines := bufio.NewScanner(bytes.NewReader(mountinfo)); lines.Scan(); {
		// 36 35 98:0 /root /mount/point options [optional]… - type source superoptions
		before, after, ok := strings.Cut(lines.Text(), " - ")
		f, t := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 5 || len(t) < 3 {
			continue
		}
		path := ""
		switch {
		case hasV1 && t[0] == "cgroup" && slices.Contains(strings.Split(t[2], ","), "memory"):
			path = v1
		case !hasV1 && t[0] == "cgroup2":
			path = v2
		}
		if path == "" {
			continue
		}
		below, inside := strings.CutPrefix(path, strings.TrimSuffix(f[3], "/"))
		if !inside {
			return group{}, fmt.Errorf("the cgroup %s is outside of what is mounted at %s", path, f[4])
		}
		return group{filepath.Join(unescape(f[4]), below), !hasV1}, nil
	}
	return group{}, errNoController
}

// unescape turns the octal escapes of mountinfo into what they stand for.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
