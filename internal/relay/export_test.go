package relay

// TidyForTest does at once what the loops do every few seconds.
func (ls *Loops) TidyForTest() {
	for _, l := range ls.all {
		done := make(chan struct{})
		l.post(func() {
			defer close(done)
			for i := range l.sockets {
				if o := l.sockets[i].owner; o != nil {
					o.tidy()
				}
			}
		})
		<-done
	}
}

// FirstIDForTest is the id before that of the first client.
func (ls *Loops) FirstIDForTest() int64 { return ls.clients.remoteIDs }
