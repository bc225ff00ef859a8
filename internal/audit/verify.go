package audit

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// ErrNone says that there is no log yet.
var ErrNone = errors.New("there is no audit log")

// Damage says that the log is not what was written.
type Damage struct {
	Seq  uint64 // the first entry that is wrong; 0 when that can't be told
	What string
}

func (d *Damage) Error() string { return "audit log: " + d.What }

// Summary is what a log holds.
type Summary struct {
	Head Head  // of the last entry; its number is that of the entries
	Torn int64 // bytes behind it, of an entry that is being written, or was when a crash came; nobody was told that it is there

	size int64 // up to Torn
	kept Head  // what audit.head holds
}

// Verify reads the log in the folder dir and checks all of it. It calls each for every entry that is as it should be, up
// to the first that isn't. What is wrong is a *Damage; ErrNone means that there is no log.
func Verify(dir string, each func(Entry)) (Summary, error) {
	var s Summary
	// The head is read first. The log only grows, so it holds the head's entry then.
	kept, err := readHead(dir)
	noHead := errors.Is(err, fs.ErrNotExist)
	if err != nil && !noHead {
		return s, err
	}
	s.kept = kept
	f, err := os.Open(LogPath(dir))
	switch {
	case err == nil:
		defer f.Close()
		if err := s.scan(f, each); err != nil {
			return s, err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return s, fmt.Errorf("read audit log: %w", err)
	}
	switch {
	case noHead && s.size+s.Torn == 0:
		return s, ErrNone
	case noHead:
		return s, &Damage{0, "audit.head is missing: whether the end of audit.log was cut off can't be told"}
	}
	return s, s.checkEnd(dir)
}

// scan reads entries up to the end.
func (s *Summary) scan(r io.Reader, each func(Entry)) error {
	lines := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := lines.ReadSlice('\n')
		if err != nil && err != io.EOF && err != bufio.ErrBufferFull {
			return fmt.Errorf("read audit log: %w", err)
		}
		if len(line) == 0 {
			return nil
		}
		e, badLine := parse(line)
		if badLine != nil {
			// Up to the head every entry was acknowledged. Behind it a crash may have torn one. A file system may
			// lose any part of it, so that it can end in a newline all the same.
			_, more := lines.Peek(1)
			if more == io.EOF && s.Head.Seq >= s.kept.Seq {
				s.Torn = int64(len(line))
				return nil
			}
			return notAnEntry(s.Head.Seq+1, badLine)
		}
		if err := s.follow(e); err != nil {
			return err
		}
		s.Head, s.size = e.head(), s.size+int64(len(line))
		each(e)
	}
}

func notAnEntry(seq uint64, why error) error {
	if errors.Is(why, errAltered) {
		return &Damage{seq, fmt.Sprintf("entry %d was altered: what line %d of audit.log says does not fit its hash", seq, seq)}
	}
	return &Damage{seq, fmt.Sprintf("entry %d is torn or overwritten: line %d of audit.log is no entry: %v", seq, seq, why)}
}

// follow checks that an entry, which is whole, is the one that comes next.
func (s *Summary) follow(e Entry) error {
	want := s.Head.Seq + 1
	switch {
	case e.Seq != want:
		return &Damage{want, fmt.Sprintf("entry %d is missing or not in its place: line %d of audit.log is entry %d", want, want, e.Seq)}
	case e.Prev != s.Head.Hash && want == 1:
		return &Damage{want, "entry 1 is not the first that was written: it names one before it"}
	case e.Prev != s.Head.Hash:
		return &Damage{s.Head.Seq, fmt.Sprintf("entry %d or entry %d was replaced: the second does not follow from the first", s.Head.Seq, want)}
	case e.Seq == s.kept.Seq && e.Hash != s.kept.Hash:
		return &Damage{e.Seq, fmt.Sprintf("entry %d or one before it was replaced: audit.head has another hash for it", e.Seq)}
	}
	return nil
}

// checkEnd compares where the log ends with audit.head.
func (s *Summary) checkEnd(dir string) error {
	if s.Head.Seq < s.kept.Seq {
		return &Damage{s.Head.Seq + 1, fmt.Sprintf("the end of audit.log was cut off: entry %d is missing; the last should be entry %d, says audit.head", s.Head.Seq+1, s.kept.Seq)}
	}
	if s.Head.Seq <= s.kept.Seq+1 {
		return nil
	}
	// There are more entries behind the head than the one that a crash can leave. They may have been appended since the head was
	// read, so it is read again.
	now, err := readHead(dir)
	if err != nil {
		return err
	}
	if s.Head.Seq <= now.Seq+1 {
		return nil
	}
	return &Damage{now.Seq + 1, fmt.Sprintf("entry %d and all after it were added by somebody else: audit.head names entry %d as the last", now.Seq+1, now.Seq)}
}
