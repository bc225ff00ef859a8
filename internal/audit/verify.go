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
	Log  string // the damaged log's name, for people
}

func (d *Damage) Error() string { return d.Log + ": " + d.What }

// Summary is what a log holds.
type Summary struct {
	Head    Head   // of the last entry
	Entries uint64 // how many there are; for a log that is not cut at its beginning the number of the last one
	Torn    int64  // bytes behind it, of an entry that is being written, or was when a crash came; nobody was told that it is there

	files files
	size  int64  // of the newest file, up to Torn
	lines uint64 // of the file that is read
	kept  Head   // what the head's file holds
}

// Verify reads the log in the folder dir and checks all of it. It calls each for every entry that is as it should be, up
// to the first that isn't. What is wrong is a *Damage; ErrNone means that there is no log.
func Verify(dir string, each func(Entry)) (Summary, error) { return certificates(dir).verify(each) }

func (f files) verify(each func(Entry)) (Summary, error) {
	s := Summary{files: f}
	// The head is read first. The log only grows, so it holds the head's entry then.
	kept, err := f.readHead()
	noHead := errors.Is(err, fs.ErrNotExist)
	if err != nil && !noHead {
		return s, err
	}
	s.kept = kept
	older, newest, err := f.openBoth()
	if err != nil {
		return s, fmt.Errorf("read %s: %w", f.title, err)
	}
	defer older.Close()
	defer newest.Close()
	if err := s.scan(older, false, each); err != nil {
		return s, err
	}
	s.size = 0
	if err := s.scan(newest, true, each); err != nil {
		return s, err
	}
	switch {
	case noHead && older == nil && s.size+s.Torn == 0:
		return s, ErrNone
	case noHead:
		return s, s.damage(0, "%s is missing: whether the end of %s was cut off can't be told", f.base(f.head), f.base(f.log))
	}
	return s, s.checkEnd()
}

// damage says what is wrong with an entry.
func (s *Summary) damage(seq uint64, format string, args ...any) error {
	return &Damage{seq, fmt.Sprintf(format, args...), s.files.title}
}

// scan reads the entries of a file, nil for one that is not there, up to its end. Only the newest file may end in a torn entry.
func (s *Summary) scan(f *os.File, newest bool, each func(Entry)) error {
	if f == nil {
		return nil
	}
	s.lines = 0
	lines := bufio.NewReaderSize(f, maxLine)
	for {
		line, err := lines.ReadSlice('\n')
		if err != nil && err != io.EOF && err != bufio.ErrBufferFull {
			return fmt.Errorf("read %s: %w", s.files.title, err)
		}
		if len(line) == 0 {
			return nil
		}
		e, badLine := parse(line)
		if badLine != nil {
			// Up to the head every entry was acknowledged. Behind it a crash may have torn one. A file system may
			// lose any part of it, so that it can end in a newline all the same.
			_, more := lines.Peek(1)
			if more == io.EOF && newest && s.Head.Seq >= s.kept.Seq {
				s.Torn = int64(len(line))
				return nil
			}
			return s.notAnEntry(f, badLine)
		}
		if s.lines == 0 && !newest {
			s.Head = Head{Seq: e.Seq - 1, Hash: e.Prev} // what came before it is not kept any more
		}
		if err := s.follow(f, e); err != nil {
			return err
		}
		s.lines++
		s.Entries++
		s.Head, s.size = e.head(), s.size+int64(len(line))
		each(e)
	}
}

func (s *Summary) notAnEntry(f *os.File, why error) error {
	seq, file := s.Head.Seq+1, s.files.base(f.Name())
	if errors.Is(why, errAltered) {
		return s.damage(seq, "entry %d was altered: what line %d of %s says does not fit its hash", seq, s.lines+1, file)
	}
	return s.damage(seq, "entry %d is torn or overwritten: line %d of %s is no entry: %v", seq, s.lines+1, file, why)
}

// follow checks that an entry, which is whole, is the one that comes next.
func (s *Summary) follow(f *os.File, e Entry) error {
	want := s.Head.Seq + 1
	switch {
	case e.Seq != want:
		return s.damage(want, "entry %d is missing or not in its place: line %d of %s is entry %d", want, s.lines+1, s.files.base(f.Name()), e.Seq)
	case e.Prev != s.Head.Hash && want == 1:
		return s.damage(want, "entry 1 is not the first that was written: it names one before it")
	case e.Prev != s.Head.Hash:
		return s.damage(s.Head.Seq, "entry %d or entry %d was replaced: the second does not follow from the first", s.Head.Seq, want)
	case e.Seq == s.kept.Seq && e.Hash != s.kept.Hash:
		return s.damage(e.Seq, "entry %d or one before it was replaced: %s has another hash for it", e.Seq, s.files.base(s.files.head))
	}
	return nil
}

// checkEnd compares where the log ends with the head's file.
func (s *Summary) checkEnd() error {
	log, head := s.files.base(s.files.log), s.files.base(s.files.head)
	if s.Head.Seq < s.kept.Seq {
		return s.damage(s.Head.Seq+1, "the end of %s was cut off: entry %d is missing; the last should be entry %d, says %s", log, s.Head.Seq+1, s.kept.Seq, head)
	}
	if s.Head.Seq <= s.kept.Seq+1 {
		return nil
	}
	// There are more entries behind the head than the one that a crash can leave. They may have been appended since the head was
	// read, so it is read again.
	now, err := s.files.readHead()
	if err != nil {
		return err
	}
	if s.Head.Seq <= now.Seq+1 {
		return nil
	}
	return s.damage(now.Seq+1, "entry %d and all after it were added by somebody else: %s names entry %d as the last", now.Seq+1, head, now.Seq)
}
