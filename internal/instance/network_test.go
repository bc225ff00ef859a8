package instance_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/instance"
)

// What describes a network is checked as the managed service does, although there is none.
func TestNetworkOfACreate(t *testing.T) {
	t.Parallel()
	const direct, private = "DIRECT_PEERING", "PRIVATE_SERVICE_ACCESS"
	for _, c := range []struct {
		network, mode, reserved string
		want                    string // the network; or what the refusal says
		refused                 bool
	}{
		{"", direct, "", "projects/p1/global/networks/default", false},
		{"projects/other/global/networks/shared", direct, "10.0.0.0/29", "projects/other/global/networks/shared", false},
		{"projects/123456/global/networks/n", private, "google-managed-services-default", "projects/123456/global/networks/n", false},
		{"https://www.googleapis.com/compute/v1/projects/p1/global/networks/n", private, "192.168.4.8/29", "projects/p1/global/networks/n", false},
		{"https://compute.googleapis.com/compute/beta/projects/example.com:p1/global/networks/n", direct, "", "projects/example.com:p1/global/networks/n", false},
		{"nonsense", direct, "", `authorized_network: "nonsense" is not the full name of a network`, true},
		{"default", direct, "", "authorized_network", true},
		{"https://evil.example/projects/p1/global/networks/n", direct, "", "authorized_network", true},
		{"projects/p1/global/networks/n/x", direct, "", "authorized_network", true},
		{"", direct, "garbage range!", `reserved_ip_range: "garbage range!" is not a range of addresses`, true},
		{"", direct, "google-managed-services-default", "goes with connect_mode PRIVATE_SERVICE_ACCESS", true},
		{"", private, "Not A Name", "want the name of an allocated range", true},
		{"", direct, "10.0.0.0", "reserved_ip_range", true},
		{"", direct, "10.0.0.0/28", "want a range of 8 IPv4 addresses", true},
		{"", direct, "10.0.0.3/29", "begins within a range: want 10.0.0.0/29", true},
		{"", direct, "8.8.8.0/29", "is not private", true},
		{"", direct, "fd00::/29", "want a range of 8 IPv4 addresses", true},
	} {
		got, err := instance.Spec{MemorySizeGB: 1, AuthorizedNetwork: c.network, ConnectMode: c.mode, ReservedIPRange: c.reserved}.Complete(first, "REDIS_7_0")
		switch {
		case c.refused && (err == nil || instance.CodeOf(err) != instance.InvalidArgument || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%q, %s, %q: %v; want that it says %q", c.network, c.mode, c.reserved, err, c.want)
		case !c.refused && (err != nil || got.AuthorizedNetwork != c.want):
			t.Errorf("%q, %s, %q: network %q, %v; want %q", c.network, c.mode, c.reserved, got.AuthorizedNetwork, err, c.want)
		}
	}
}

// Two instances of a network never have the same range, whether it was chosen or asked for.
func TestReservedRangesAreUnique(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		create := func(id, network, reserved string) (instance.Instance, error) {
			spec := plainSpec()
			spec.AuthorizedNetwork, spec.ReservedIPRange = network, reserved
			if _, err := m.server.Create(named(id), spec, "v1"); err != nil {
				return instance.Instance{}, err
			}
			return m.waitReady(named(id)), nil
		}
		var ranges []string
		for _, id := range []string{"a", "b", "c"} {
			i, err := create(id, "", "")
			if err != nil {
				t.Fatal(err)
			}
			ranges = append(ranges, i.Spec.ReservedIPRange)
		}
		if !slices.Equal(ranges, []string{"10.83.0.0/29", "10.83.0.8/29", "10.83.0.16/29"}) {
			t.Errorf("chosen: %v", ranges)
		}
		_, err := create("d", "", "10.83.0.8/29")
		wantError(t, "a range that is taken", err, instance.InvalidArgument, "reserved_ip_range", "10.83.0.8/29", "another instance")
		// Another network has ranges of its own, and what was deleted is free again.
		if _, err := create("d", "projects/p1/global/networks/other", "10.83.0.8/29"); err != nil {
			t.Errorf("another network: %v", err)
		}
		if _, err := m.server.Delete(named("b"), "v1"); err != nil {
			t.Fatal(err)
		}
		m.waitGone(named("b"))
		if i, err := create("e", "", "10.83.0.8/29"); err != nil || i.Spec.ReservedIPRange != "10.83.0.8/29" {
			t.Errorf("after the delete: %q, %v", i.Spec.ReservedIPRange, err)
		}
	})
}

// The times that an update's caller leaves out are filled in, and those that it must not change stay.
func TestTimesOfASpec(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		made := time.Now().UTC()
		spec := plainSpec()
		spec.SnapshotPeriod = 6 * time.Hour
		spec.Maintenance = &instance.MaintenancePolicy{Windows: []instance.MaintenanceWindow{{Day: time.Monday, Hour: 3}}}
		if _, err := m.server.Create(first, spec, "v1"); err != nil {
			t.Fatal(err)
		}
		i := m.waitReady(first)
		if !i.Spec.SnapshotStart.Equal(made) || !i.NextSnapshot.Equal(made.Add(6*time.Hour)) || !i.Spec.Maintenance.Created.Equal(made) {
			t.Errorf("made at %v: snapshots from %v, next %v; maintenance %+v", made, i.Spec.SnapshotStart, i.NextSnapshot, i.Spec.Maintenance)
		}
		time.Sleep(13 * time.Hour)
		if i = m.get(first); !i.NextSnapshot.Equal(made.Add(18 * time.Hour)) {
			t.Errorf("after 13 h the next snapshot is at %v; want 18 h", i.NextSnapshot.Sub(made))
		}
		update := func(change instance.Change) instance.Instance {
			t.Helper()
			if _, err := m.server.Update(t.Context(), first, change, "v1"); err != nil {
				t.Fatal(err)
			}
			return m.waitReady(first)
		}
		changed := time.Now().UTC()
		start := changed.Add(100 * time.Hour)
		i = update(func(s *instance.Spec) {
			s.SnapshotStart = start
			s.Maintenance = &instance.MaintenancePolicy{Description: "x", Windows: []instance.MaintenanceWindow{{Day: time.Monday, Hour: 3}}}
		})
		if p := i.Spec.Maintenance; !i.NextSnapshot.Equal(start) || !p.Created.Equal(made) || !p.Updated.Equal(changed) {
			t.Errorf("next snapshot %v, maintenance %+v", i.NextSnapshot, p)
		}
		time.Sleep(time.Hour)
		i = update(func(s *instance.Spec) {
			same := *s.Maintenance
			same.Created, same.Updated = time.Time{}, time.Time{} // callers may leave them out, or send anything
			s.Maintenance, s.SnapshotPeriod, s.SnapshotStart = &same, 0, time.Time{}
		})
		if p := i.Spec.Maintenance; !i.NextSnapshot.IsZero() || !p.Created.Equal(made) || !p.Updated.Equal(changed) {
			t.Errorf("next snapshot %v, maintenance %+v", i.NextSnapshot, p)
		}
	})
}
