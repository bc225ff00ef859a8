package engine

import (
	"context"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The roles of an engine.
const (
	RolePrimary = "primary"
	RoleReplica = "replica"
)

// Replication is an engine's side of replication.
type Replication struct {
	Role string // RolePrimary or RoleReplica
	// ID is the replication ID: the name of the history that the data are of. An engine that starts makes itself a new one, unless it is
	// started as a replica with a dump that has one; a replica takes its primary's once it has all of its data. A promotion makes a
	// new one, and ID2 is then the one before, whose history ends before ID2Offset. "": there is none before.
	ID, ID2   string
	ID2Offset int64
	// Offset is how many bytes of what changes a primary has given out, and a replica has applied. Negative: a replica that has no data of
	// which it knows how far they go, because it waits for a primary's or has begun to load them.
	Offset int64
	// Backlog is how many of the last bytes of what changed it keeps, for partial resynchronisations; BacklogSize is how many it may.
	Backlog, BacklogSize int64
	// Loading is whether it loads data, from its disk or from a primary. It answers nothing else meanwhile.
	Loading bool

	// Replicas are those that are connected, in the engine's order.
	Replicas []ReplicaLink

	// What follows is about a replica's link.

	// Primary is the address of its primary, as host:port.
	Primary string
	// Linked is whether it has all data and is told of each change.
	Linked bool
	// Syncing is whether it takes all data anew, or waits for that, because it has none that are whole.
	Syncing bool
	// LastIO is how long ago it has heard from its primary, to the second; the primary says something every second. Negative: there is
	// no link. DownFor is then since when, to the second; negative: there has not been one.
	LastIO, DownFor time.Duration
	// Copied is how many bytes of the data it has received, Total how many there are; 0: not known.
	Copied, Total int64
}

// ReplicaLink is a replica, as its primary sees it.
type ReplicaLink struct {
	Address string // as it has announced it
	// State is "online", or what is still to be done: "wait_bgsave", "send_bulk" and others.
	State  string
	Offset int64         // what it has acknowledged
	Lag    time.Duration // since it has acknowledged something, to the second
}

// Replication asks the engine for its side of replication.
func (e *Engine) Replication(ctx context.Context) (Replication, error) {
	info, err := e.Info(ctx, "replication", "persistence")
	if err != nil {
		return Replication{}, err
	}
	return parseReplication(info), nil
}

// parseReplication reads the sections "replication" and "persistence" of INFO.
func parseReplication(info map[string]string) Replication {
	number := func(name string) int64 {
		n, _ := strconv.ParseInt(info[name], 10, 64)
		return n
	}
	seconds := func(name string) time.Duration {
		n, err := strconv.ParseInt(info[name], 10, 64)
		if err != nil {
			n = -1
		}
		return time.Duration(n) * time.Second
	}
	r := Replication{
		Role: RolePrimary, ID: info["master_replid"], ID2: info["master_replid2"], ID2Offset: number("second_repl_offset"),
		Offset: number("master_repl_offset"), BacklogSize: number("repl_backlog_size"), Backlog: number("repl_backlog_histlen"),
		Loading: info["loading"] == "1" || info["async_loading"] == "1",
		LastIO:  -time.Second, DownFor: -time.Second,
		Copied: number("master_sync_read_bytes"), Total: number("master_sync_total_bytes"),
	}
	if strings.Trim(r.ID2, "0") == "" { // so engines say that there is none
		r.ID2, r.ID2Offset = "", 0
	}
	r.Replicas = replicaLinks(info)
	if info["role"] != "slave" {
		return r
	}
	r.Role = RoleReplica
	r.Primary = net.JoinHostPort(info["master_host"], info["master_port"])
	r.Syncing = info["master_sync_in_progress"] == "1"
	r.Linked = info["master_link_status"] == "up" && info["master_sync_in_progress"] == "0"
	if r.Offset = number("slave_repl_offset"); r.Offset == 1 && !r.Linked {
		r.Offset, r.Syncing = -1, true // engines say 1 where they don't know
	}
	r.LastIO, r.DownFor = seconds("master_last_io_seconds_ago"), seconds("master_link_down_since_seconds")
	return r
}

// replicaLinks reads the lines "slave0:ip=10.0.0.1,port=7001,state=online,offset=42,lag=1".
func replicaLinks(info map[string]string) []ReplicaLink {
	var indexes []int
	for name := range info {
		if n, err := strconv.Atoi(strings.TrimPrefix(name, "slave")); err == nil && strings.HasPrefix(name, "slave") {
			indexes = append(indexes, n)
		}
	}
	slices.Sort(indexes)
	var links []ReplicaLink
	for _, n := range indexes {
		f := make(map[string]string)
		for field := range strings.SplitSeq(info["slave"+strconv.Itoa(n)], ",") {
			name, value, _ := strings.Cut(field, "=")
			f[name] = value
		}
		if f["ip"] == "" {
			continue
		}
		l := ReplicaLink{Address: net.JoinHostPort(f["ip"], f["port"]), State: f["state"]}
		l.Offset, _ = strconv.ParseInt(f["offset"], 10, 64)
		lag, _ := strconv.ParseInt(f["lag"], 10, 64)
		l.Lag = time.Duration(lag) * time.Second
		links = append(links, l)
	}
	return links
}

// Follows says whether the engine's data are those of the history with this replication ID, up to its Offset, and whole. It is what a
// replica must be to become the primary, with the ID of the primary before. An engine that has started without data, or that
// takes them anew and has lost its old ones, is not.
func (r Replication) Follows(id string) bool {
	return id != "" && r.ID == id && r.Offset >= 0 && !r.Loading
}

// Continues says whether an engine that has applied so much of the history with this ID can be the engine's replica without losing
// anything: all that it has, the engine has too. (Whether that takes a partial resynchronisation or a full one is up to the backlog.)
func (r Replication) Continues(id string, offset int64) bool {
	switch {
	case id == "" || r.Loading || r.Offset < 0 || offset < 0:
		return false
	case id == r.ID:
		return offset <= r.Offset
	}
	return id == r.ID2 && offset < r.ID2Offset
}
