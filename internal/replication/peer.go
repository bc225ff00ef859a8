package replication

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
)

// ownsConnection says whether the socket of a TCP connection over IPv4, which is seen from that side, belongs to a process of this
// machine.
func ownsConnection(pid int, local, remote *net.TCPAddr) (bool, error) {
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return false, err
	}
	inode, ok := findInode(string(table), local, remote)
	if !ok {
		return false, nil // it has ended already
	}
	fds := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(fds)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	want := "socket:[" + inode + "]"
	for _, e := range entries {
		if link, err := os.Readlink(fds + "/" + e.Name()); err == nil && link == want {
			return true, nil
		}
	}
	return false, nil
}

// findInode finds the inode of a socket in /proc/net/tcp; see proc_net_tcp(5).
func findInode(table string, local, remote *net.TCPAddr) (string, bool) {
	from, to := procAddress(local), procAddress(remote)
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) >= 10 && f[1] == from && f[2] == to {
			return f[9], f[9] != "0"
		}
	}
	return "", false
}

// procAddress writes an address of IPv4 as /proc/net/tcp does: its four bytes as one number of the machine, which has its lowest byte
// first on all that Sealane runs on, and the port.
func procAddress(a *net.TCPAddr) string {
	ip := slices.Clone(a.IP.To4())
	slices.Reverse(ip)
	return fmt.Sprintf("%s:%04X", strings.ToUpper(hex.EncodeToString(ip)), a.Port)
}
