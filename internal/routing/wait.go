package routing

import (
	"bytes"
	"strconv"
)

// WAIT and WAITAOF wait for what their own connection has written. Up to Redis 7.0 that is all that the engine had executed when the
// connection's last request was over. From 7.2 on, and in Valkey, it is the last request of the connection that the engine has sent to
// its replicas. What a client has written over another connection does not count.
//
// So a fence goes before: requests that make everything count that was executed by then, and change nothing. Their replies tell
// whether they have worked.

// Writes is what has to be known of a client's writes for WAIT and WAITAOF. The zero value is that of a client that has asked nothing.
type Writes struct {
	// Elsewhere says that some may have gone over another connection than the dedicated one, since the last fence.
	Elsewhere bool
	// OwnConnection says that the engine has refused a fence: from then on all requests go over a dedicated connection.
	OwnConnection bool
	// Lost says that some that no reply to WAIT had confirmed were made at an engine that has ended since, or by a connection that broke.
	Lost bool

	made, confirmed uint64 // how many, and how many of them a reply to WAIT has confirmed
}

// Sending notes a request.
func (w *Writes) Sending(c *Command, dedicated bool) {
	w.Elsewhere = w.Elsewhere || !dedicated
	if !c.RetrySafe && c != waitReplicas && c != waitAOF {
		w.made++
	}
}

// Made is how many there were by now.
func (w *Writes) Made() uint64 { return w.made }

// Confirmed notes that WAIT has confirmed so many, or that the client was told that they are lost.
func (w *Writes) Confirmed(made uint64) { w.confirmed = max(w.confirmed, made) }

// EngineLost notes that the engine is gone, and nobody has made sure that the next one has the same data.
func (w *Writes) EngineLost() { w.Lost = w.Lost || w.made > w.confirmed }

// WaitFence returns the requests that go before WAIT or WAITAOF. channel is the name of a shard channel that nobody listens to.
// foreign says that nothing is known of the server: it may be a node of a cluster, where the fence does not work.
func (c *Command) WaitFence(channel string, foreign bool) [][]string {
	var fence [][]string
	if foreign {
		fence = append(fence, []string{"HELLO"}) // whose reply says "mode", "cluster"
	}
	if c == waitAOF {
		// An engine without replicas does not count messages, which are not in its file either.
		return append(fence, []string{"SWAPDB", "0", "0"})
	}
	// A message to a shard channel goes to replicas (from Redis 7.0 on), even while too few of them are there for a write, and is not
	// shown to PSUBSCRIBE. Older engines don't know it, but there WAIT itself counts.
	return append(fence, []string{"SPUBLISH", channel, ""}, []string{"WAIT", "0", "0"})
}

var waitReplicas, waitAOF = Named("wait"), Named("waitaof")

// FenceRefusal returns why a fence does not work, by one of its replies: nil if that shows nothing of the kind.
func FenceRefusal(request []string, reply []byte) []byte {
	refused := reply[0] == '-'
	switch {
	case request[0] == "HELLO" && bytes.Contains(reply, []byte("\r\ncluster\r\n")):
		return []byte("the server is a node of a cluster")
	case request[0] == "HELLO", request[0] == "WAIT", !refused:
		return nil
	case request[0] == "SPUBLISH" && bytes.HasPrefix(reply, []byte("-ERR unknown command")):
		return nil
	}
	return bytes.TrimSpace(reply[1:])
}

// WaitConfirms says whether a reply to WAIT or WAITAOF confirms as much as was asked for, and that a replica has it. args are the
// request's. The engine's own file is not enough: another engine may take over that does not have it.
func WaitConfirms(args []string, reply []byte) bool {
	if len(args) < 3 {
		return false
	}
	if reply[0] == ':' {
		return atLeast(reply[1:], args[1], 1)
	}
	// *2, :LOCAL, :REPLICAS
	lines := bytes.Split(reply, []byte("\r\n"))
	return len(lines) > 2 && len(lines[1]) > 1 && len(lines[2]) > 1 && atLeast(lines[1][1:], args[1], 0) && atLeast(lines[2][1:], args[2], 1)
}

func atLeast(got []byte, wanted string, least int64) bool {
	n, err := strconv.ParseInt(string(bytes.TrimSpace(got)), 10, 64)
	asked, err2 := strconv.ParseInt(wanted, 10, 64)
	return err == nil && err2 == nil && n >= max(asked, least)
}
