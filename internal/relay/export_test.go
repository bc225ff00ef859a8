package relay

// TidyForTest does at once what the loops do every few seconds.
func (ls *Loops) TidyForTest() {
	for _, l := range ls.all {
		done := make(chan struct{})
		l.post(func() {
			defer close(done)
			for _, s := range l.sockets {
				if s != nil {
					s.owner.tidy()
				}
			}
		})
		<-done
	}
}
