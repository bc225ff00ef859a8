package access

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/sealane/sealane/internal/store"
)

// Store keeps records. *store.Store is one; its documentation says what each method guarantees.
type Store interface {
	List(prefix string) ([]store.Record, error)
	Get(key string) (store.Record, error)
	Put(key string, value []byte, version uint64) (uint64, error)
	Delete(key string, version uint64) error
}

const (
	// recordPrefix begins the key of a token's record.
	recordPrefix = "tokens/"
	// forgetAfter is for how long an expired or revoked token is known, so that whoever still uses it learns why it fails.
	forgetAfter = 30 * 24 * time.Hour
	// useInterval is how often the times of last use are written down.
	useInterval = 10 * time.Minute
	// MaxTokens bounds the records.
	MaxTokens = 10_000
	// MaxBindings bounds one.
	MaxBindings = 50
	// MaxDescription bounds a description, in bytes.
	MaxDescription = 200
)

// Why a token lets nobody in, or can't be made or found.
var (
	ErrUnknown = errors.New("no such token")
	ErrExpired = errors.New("the token has expired")
	ErrRevoked = errors.New("the token was revoked")
	ErrTooMany = fmt.Errorf("there are %d tokens already", MaxTokens)
)

// Token is what is known of a token. It isn't the secret itself, which nobody can read back.
type Token struct {
	ID          string // short and public: it names the token in lists and logs
	Description string
	Bindings    []Binding
	Created     time.Time
	Creator     string    // id of the token that made it
	Expires     time.Time // zero: never
	Revoked     time.Time // zero: it was not
	Used        time.Time // last; zero: never
}

// Ended says why the token lets nobody in at a time; nil: it does.
func (t Token) Ended(now time.Time) error {
	switch {
	case !t.Revoked.IsZero():
		return ErrRevoked
	case !t.Expires.IsZero() && !now.Before(t.Expires):
		return ErrExpired
	}
	return nil
}

// Principal is who calls with the token.
func (t Token) Principal() Principal {
	return Principal{ID: t.ID, Name: t.Description, Bindings: t.Bindings, Expires: t.Expires}
}

// record is a token as it is stored. Its hash is the SHA-256 of the secret, which has 256 random bits: salt or a slow hash would
// add nothing.
type record struct {
	Token
	Hash []byte
}

// entry is a token in memory.
type entry struct {
	record
	version uint64
	written time.Time // what the record says of Used
	unsaved bool      // it was revoked, and the record doesn't say so yet
}

// Tokens are the tokens of one server. Its methods may be called concurrently.
type Tokens struct {
	store Store
	admin [sha256.Size]byte
	now   func() time.Time
	log   *slog.Logger

	// changing is held while the records are changed: only one process does so, and here only one goroutine at a time.
	changing sync.Mutex

	mu     sync.Mutex // guards what follows; never held during I/O
	byHash map[[sha256.Size]byte]*entry
	byID   map[string]*entry

	stop chan struct{}
	done sync.WaitGroup
}

// Open reads all tokens. admin is the administrator's token, which is not among the records. Close must be called.
func Open(st Store, admin string, now func() time.Time, log *slog.Logger) (*Tokens, error) {
	t := &Tokens{
		store: st, admin: sha256.Sum256([]byte(admin)), now: now, log: log,
		byHash: make(map[[sha256.Size]byte]*entry), byID: make(map[string]*entry), stop: make(chan struct{}),
	}
	records, err := st.List(recordPrefix)
	if err != nil {
		return nil, fmt.Errorf("read tokens: %w", err)
	}
	for _, r := range records {
		e := &entry{version: r.Version}
		if err := json.Unmarshal(r.Value, &e.record); err != nil || len(e.Hash) != sha256.Size || recordPrefix+e.ID != r.Key {
			return nil, fmt.Errorf("read tokens: record %s is not a token: %w", r.Key, cmp.Or(err, store.ErrDamaged))
		}
		e.written = e.Used
		t.add(e)
	}
	t.done.Go(t.keep)
	return t, nil
}

// Close writes down when tokens were last used.
func (t *Tokens) Close() {
	close(t.stop)
	t.done.Wait()
	t.writeChanges()
}

// keep writes down uses and forgets tokens, until Close.
func (t *Tokens) keep() {
	ticker := time.NewTicker(useInterval)
	defer ticker.Stop()
	for {
		select {
		case <-t.stop:
			return
		case <-ticker.C:
			t.writeChanges()
			t.forget()
		}
	}
}

// add is called with mu held, or before others know of t.
func (t *Tokens) add(e *entry) {
	t.byID[e.ID] = e
	t.byHash[[sha256.Size]byte(e.Hash)] = e
}

// Authenticate says who has a token. The error is ErrUnknown, ErrExpired or ErrRevoked; for the last two the principal is whose token
// it was.
func (t *Tokens) Authenticate(token string) (Principal, error) {
	// The map is searched by the hash, of which nobody can choose a part: how long that takes tells nothing about a secret.
	sum := sha256.Sum256([]byte(token))
	if subtle.ConstantTimeCompare(sum[:], t.admin[:]) == 1 {
		return Administrator, nil
	}
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.byHash[sum]
	if e == nil {
		return Principal{}, ErrUnknown
	}
	if err := e.Ended(now); err != nil {
		return e.Principal(), err
	}
	e.Used = now.UTC().Truncate(time.Second)
	return e.Principal(), nil
}

// Create makes a token and returns it with its secret, which can't be had again.
func (t *Tokens) Create(wanted Token) (made Token, secret string, err error) {
	t.changing.Lock()
	defer t.changing.Unlock()
	t.forget0()
	t.mu.Lock()
	full := len(t.byID) >= MaxTokens
	t.mu.Unlock()
	if full {
		return Token{}, "", ErrTooMany
	}
	e := &entry{record: record{Token: wanted}}
	e.ID, secret = newSecret()
	sum := sha256.Sum256([]byte(secret))
	e.Hash = sum[:]
	e.Created = t.now().UTC().Truncate(time.Second)
	if err := t.save(e); err != nil {
		return Token{}, "", fmt.Errorf("create token: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.add(e)
	return e.Token, secret, nil
}

// newSecret makes a token's text and the id in it. The prefix lets secret scanners find a leaked one, and the id lets whoever
// has found one tell which to revoke.
func newSecret() (id, secret string) {
	var raw [6 + 32]byte
	rand.Read(raw[:]) // never fails: it ends the process instead
	id = hex.EncodeToString(raw[:6])
	return id, "sealane_" + id + "_" + base64.RawURLEncoding.EncodeToString(raw[6:])
}

// save commits a record that was made or changed. It is called with changing held.
func (t *Tokens) save(e *entry) error {
	value, err := json.Marshal(e.record)
	if err != nil {
		return err
	}
	version, err := t.store.Put(recordPrefix+e.ID, value, e.version)
	if err != nil {
		// It may have been stored all the same, and a record that holds just these bytes was.
		stored, readErr := t.store.Get(recordPrefix + e.ID)
		if readErr != nil || stored.Version != e.version+1 || !bytes.Equal(stored.Value, value) {
			return err
		}
		version = stored.Version
	}
	e.version, e.written = version, e.Used
	return nil
}

// saveChanged commits a token as it is in memory. It is called with changing held.
func (t *Tokens) saveChanged(id string) error {
	t.mu.Lock()
	e := t.byID[id]
	saved := *e
	t.mu.Unlock()
	if err := t.save(&saved); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e.version, e.written, e.unsaved = saved.version, saved.written, false
	return nil
}

// Revoke ends a token now. Revoking it again changes nothing. The token lets nobody in from now on after an error too, unless it is
// ErrUnknown: the error is that this could not be recorded, so that another server would let it in. Recording it is tried again.
func (t *Tokens) Revoke(id string) (Token, error) {
	t.changing.Lock()
	defer t.changing.Unlock()
	t.mu.Lock()
	e := t.byID[id]
	if e == nil {
		t.mu.Unlock()
		return Token{}, ErrUnknown
	}
	if e.Revoked.IsZero() {
		e.Revoked, e.unsaved = t.now().UTC().Truncate(time.Second), true
	}
	revoked, unsaved := e.Token, e.unsaved
	t.mu.Unlock()
	if !unsaved {
		return revoked, nil
	}
	if err := t.saveChanged(id); err != nil {
		return revoked, fmt.Errorf("revoke token %s: %w", id, err)
	}
	return revoked, nil
}

// Descendants are the tokens that were made with a token, those that were made with these, and so on, as far as they are known and
// were not revoked.
func (t *Tokens) Descendants(id string) []Token {
	all, makers := t.List(), map[string]bool{id: true}
	var found []Token
	for before := -1; len(found) != before; {
		before = len(found)
		for _, token := range all {
			if makers[token.Creator] && !makers[token.ID] {
				makers[token.ID] = true
				found = append(found, token)
			}
		}
	}
	return slices.DeleteFunc(found, func(token Token) bool { return !token.Revoked.IsZero() })
}

// Get finds a token by its id. The error is ErrUnknown.
func (t *Tokens) Get(id string) (Token, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.byID[id]; e != nil {
		return e.Token, nil
	}
	return Token{}, ErrUnknown
}

// List lists all tokens, those that have ended too as long as they are known, ordered by id.
func (t *Tokens) List() []Token {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]Token, 0, len(t.byID))
	for _, e := range t.byID {
		all = append(all, e.Token)
	}
	slices.SortFunc(all, func(a, b Token) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

// writeChanges writes down when tokens were last used, and revocations that could not be recorded. What fails is tried again the next time.
func (t *Tokens) writeChanges() {
	t.changing.Lock()
	defer t.changing.Unlock()
	for _, token := range t.List() {
		t.mu.Lock()
		e := t.byID[token.ID]
		changed := e.unsaved || !e.Used.Equal(e.written)
		t.mu.Unlock()
		if !changed {
			continue
		}
		if err := t.saveChanged(token.ID); err != nil {
			t.log.Warn("tokens: when they were last used, or that they were revoked, can't be written down", "err", err)
			return
		}
	}
}

// forget removes tokens that ended long ago.
func (t *Tokens) forget() {
	t.changing.Lock()
	defer t.changing.Unlock()
	t.forget0()
}

// forget0 is forget with changing held.
func (t *Tokens) forget0() {
	long := t.now().Add(-forgetAfter)
	for _, token := range t.List() {
		ended := cmp.Or(token.Revoked, token.Expires)
		if ended.IsZero() || ended.After(long) {
			continue
		}
		t.mu.Lock()
		e := t.byID[token.ID]
		t.mu.Unlock()
		if err := t.store.Delete(recordPrefix+token.ID, e.version); err != nil && !errors.Is(err, store.ErrConflict) {
			t.log.Warn("tokens: one that ended long ago can't be removed", "token", token.ID, "err", err)
			return
		}
		t.mu.Lock()
		delete(t.byID, token.ID)
		delete(t.byHash, [sha256.Size]byte(e.Hash))
		t.mu.Unlock()
	}
}
