package relay

import "time"

// ShrinkIdleForTest does at once what the loops do every few seconds.
func (ls *Loops) ShrinkIdleForTest() {
	for _, l := range ls.all {
		done := make(chan struct{})
		l.post(func() {
			defer close(done)
			for i := range l.watching {
				if o := l.watching[i].owner; o != nil {
					o.shrinkIdle()
				}
			}
		})
		<-done
	}
}

// FirstIDForTest is the id before that of the first client.
// LetTransactionsFinishForTest makes holds wait for transactions that are open, however long they take on a busy machine.
func (ls *Loops) LetTransactionsFinishForTest() { ls.transactionTime = time.Minute }

func (ls *Loops) FirstIDForTest() int64 { return ls.clients.remoteIDs }
