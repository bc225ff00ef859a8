package instance_test

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/enginetest"
	"github.com/sealane/sealane/internal/instance"
)

// configCases are values of every parameter. All good ones go into a real engine too.
var configCases = map[string]struct{ good, bad []string }{
	"activedefrag":             {[]string{"no", "yes"}, []string{"", "1", "true", "YES", "no "}},
	"databases":                {[]string{"1", "16", "100"}, []string{"0", "101", "-1", "1.0", "", "0x10", "+16", "016"}},
	"lazyfree-lazy-eviction":   {[]string{"yes", "no"}, []string{"", "on"}},
	"lazyfree-lazy-expire":     {[]string{"yes", "no"}, []string{"", "on"}},
	"lazyfree-lazy-user-del":   {[]string{"yes", "no"}, []string{"", "on"}},
	"lazyfree-lazy-user-flush": {[]string{"yes", "no"}, []string{"", "on"}},
	"lfu-decay-time":           {[]string{"0", "1", "2147483647"}, []string{"-1", "2147483648", "one", ""}},
	"lfu-log-factor":           {[]string{"0", "10", "2147483647"}, []string{"-1", "2147483648", "1e3", ""}},
	"maxmemory-clients":        {[]string{"0", "1048576", "1%", "10%", "99%", "100%"}, []string{"-1", "0%", "101%", "010%", "1mb", "%", "", "1.5%"}},
	"maxmemory-gb":             {[]string{"0.6", "1", "2.5", "3", "0.75"}, []string{"0.5", "3.1", "0", "-1", "1e0", "Inf", "NaN", "0x1", "", "2,5", "1.2345", " 1"}},
	"maxmemory-policy": {[]string{"noeviction", "allkeys-lfu", "allkeys-lru", "allkeys-random", "volatile-lfu", "volatile-lru", "volatile-random", "volatile-ttl"},
		[]string{"", "lru", "NOEVICTION"}},
	"notify-keyspace-events":  {[]string{"", "KEA", "Kg$lshzxetd", "KEg$lshzxentmdA"}, []string{"q", "K E", "KEA\n", `"`}},
	"stream-node-max-bytes":   {[]string{"0", "4096", "2147483647"}, []string{"-1", "4kb", ""}},
	"stream-node-max-entries": {[]string{"0", "100", "2147483647"}, []string{"-1", "many", ""}},
	"timeout":                 {[]string{"0", "300", "2147483647"}, []string{"-1", "2147483648", "-0", "+5", "007", " 5", ""}},
}

// configSize is the memory_size_gb that the cases of maxmemory-gb are for: a fifth of it is no binary fraction.
const configSize = 3

func TestRedisConfigs(t *testing.T) {
	t.Parallel()
	for _, name := range instance.RedisConfigNames() {
		c, ok := configCases[name]
		if !ok {
			t.Errorf("%s has no cases", name)
		}
		check := func(value, version string) []instance.Violation {
			return instance.CheckRedisConfigs(map[string]string{name: value}, version, configSize)
		}
		for _, v := range c.good {
			if vs := check(v, "REDIS_7_0"); len(vs) != 0 {
				t.Errorf("%s %q: %v", name, v, vs)
			}
		}
		for _, v := range c.bad {
			vs := check(v, "REDIS_7_0")
			if len(vs) != 1 || vs[0].Field != fmt.Sprintf("redis_configs[%q]", name) || !strings.Contains(vs[0].Description, fmt.Sprintf("%q", v)) {
				t.Errorf("%s %q is accepted, or not by name: %v", name, v, vs)
			}
		}
	}
	if vs := instance.CheckRedisConfigs(map[string]string{"save": "1 1", "appendonly": "yes", "timeout": "x"}, "REDIS_7_0", 1); len(vs) != 3 ||
		!strings.Contains(vs[0].Description, "maxmemory-policy") || vs[0].Field != `redis_configs["appendonly"]` {
		t.Errorf("unknown parameters: %v", vs)
	}
}

func TestRedisConfigsOfVersions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, value, version string
		ok                   bool
	}{
		{"timeout", "1", "REDIS_3_2", true},
		{"activedefrag", "no", "REDIS_3_2", false},
		{"lfu-log-factor", "1", "REDIS_4_0", true},
		{"stream-node-max-bytes", "1", "REDIS_4_0", false},
		{"stream-node-max-bytes", "1", "REDIS_5_0", true},
		{"lazyfree-lazy-expire", "yes", "REDIS_6_X", false},
		{"lazyfree-lazy-expire", "yes", "REDIS_7_0", true},
		{"maxmemory-clients", "5%", "REDIS_6_X", false},
		{"maxmemory-clients", "5%", "VALKEY_8_0", true},
	} {
		vs := instance.CheckRedisConfigs(map[string]string{c.name: c.value}, c.version, 1)
		if (len(vs) == 0) != c.ok || !c.ok && !strings.Contains(vs[0].Description, c.version) {
			t.Errorf("%s with %s: %v; want ok: %t", c.name, c.version, vs, c.ok)
		}
	}
}

// What the table accepts, each real engine accepts.
func TestAcceptedConfigsStartARealEngine(t *testing.T) { enginetest.Each(t, acceptedConfigs) }

func acceptedConfigs(t *testing.T, b engine.Binary) {
	t.Parallel()
	rounds := 0
	for _, c := range configCases {
		rounds = max(rounds, len(c.good))
	}
	for round := range rounds {
		s := instance.Spec{MemorySizeGB: configSize, RedisConfigs: make(map[string]string)}
		for name, c := range configCases {
			if v := c.good[round%len(c.good)]; name != "activedefrag" || v == "no" { // distributions build without it
				s.RedisConfigs[name] = v
			}
		}
		dir, err := os.MkdirTemp("", "sl") // a short path, for the socket
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		e, err := engine.Start(t.Context(), b, engine.Config{Dir: dir + "/n", Directives: s.Directives(), AdminPassword: "secret"})
		if err != nil {
			t.Errorf("%v: %v", s.RedisConfigs, err)
			continue
		}
		if err := e.Stop(t.Context(), false); err != nil {
			t.Error(err)
		}
	}
}

func TestMemoryLimit(t *testing.T) {
	t.Parallel()
	const gib = 1 << 30
	for _, c := range []struct {
		size    int32
		configs map[string]string
		want    int64
		clients string // maxmemory-clients
	}{
		{1, nil, 2*gib + 3*gib + gib/2, "3221225472"},
		{1, map[string]string{"maxmemory-gb": "0.5"}, gib + 3*gib + gib/2, "3221225472"},
		{100, nil, 200*gib + 25*gib + gib/2, "26843545600"},
		{1, map[string]string{"maxmemory-clients": "0"}, 2*gib + 3*gib + gib/2, "0"},
		{1, map[string]string{"maxmemory-clients": "5368709120"}, 2*gib + 5*gib + gib/2, "5368709120"},
		{100, map[string]string{"maxmemory-clients": "50%"}, 200*gib + 100*gib/100*50 + gib/2, "50%"},
		{1, map[string]string{"maxmemory-clients": "9223372036854775807"}, 2*gib + 1<<50 + gib/2, "9223372036854775807"},
	} {
		s := instance.Spec{MemorySizeGB: c.size, RedisConfigs: c.configs, RedisVersion: "REDIS_7_0"}
		if got := s.MemoryLimit(); got != c.want {
			t.Errorf("%d GB, %v: limit %d, want %d", c.size, c.configs, got, c.want)
		}
		if got := s.Directives()["maxmemory-clients"]; got != c.clients {
			t.Errorf("%d GB, %v: maxmemory-clients %q, want %q", c.size, c.configs, got, c.clients)
		}
		s.RedisVersion = "REDIS_6_X"
		if got := s.Directives()["maxmemory-clients"]; c.configs == nil && got != "" {
			t.Errorf("6.x knows no maxmemory-clients, and gets %q", got)
		}
	}
}

func TestDirectives(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		spec instance.Spec
		want map[string]string
	}{
		{instance.Spec{MemorySizeGB: 2}, map[string]string{"maxmemory": "2147483648", "maxmemory-policy": "volatile-lru", "save": "", "stop-writes-on-bgsave-error": "no"}},
		{
			instance.Spec{MemorySizeGB: 2, SnapshotPeriod: 12 * time.Hour, RedisConfigs: map[string]string{
				"maxmemory-gb": "0.5", "maxmemory-policy": "noeviction", "timeout": "7",
			}},
			map[string]string{"maxmemory": "536870912", "maxmemory-policy": "noeviction", "save": "46800 1", "stop-writes-on-bgsave-error": "no"}, // the gateway has the timeout
		},
	} {
		got := c.spec.Directives()
		delete(got, "maxclients")
		if !maps.Equal(got, c.want) {
			t.Errorf("got %v; want %v", got, c.want)
		}
	}
}

// The managed service's limits, of its table for connections with encryption.
func TestMaxClients(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		version string
		sizeGB  int32
		plain   bool
		want    int
	}{
		{"REDIS_6_X", 1, false, 1000}, {"REDIS_6_X", 4, false, 1000}, {"REDIS_6_X", 5, false, 2500}, {"REDIS_6_X", 10, false, 2500},
		{"REDIS_6_X", 11, false, 15000}, {"REDIS_6_X", 35, false, 15000}, {"REDIS_6_X", 36, false, 30000}, {"REDIS_6_X", 100, false, 30000},
		{"REDIS_6_X", 101, false, 65000}, {"REDIS_7_0", 1, false, 65000}, {"VALKEY_8_0", 1, false, 65000},
		{"REDIS_6_X", 1, true, 65000},
	} {
		s := instance.Spec{RedisVersion: c.version, MemorySizeGB: c.sizeGB, TransitEncryption: !c.plain}
		if got := s.MaxClients(); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
		// The server's own connections to the engine come on top.
		if got := s.Directives()["maxclients"]; got != strconv.Itoa(c.want+32) {
			t.Errorf("%+v: the engine's maxclients is %s", c, got)
		}
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 63)
	for _, good := range []string{
		"projects/local/locations/local/instances/a",
		"projects/my-project-1/locations/europe-west4/instances/first-2",
		"projects/example.com:my-project/locations/l1/instances/" + long[:40],
		"projects/123456789012/locations/l1/instances/a1",
		"projects/" + long + "/locations/" + long + "/instances/a",
	} {
		if n, err := instance.ParseName("name", good); err != nil || n.String() != good {
			t.Errorf("%s: %v, %v", good, n, err)
		}
	}
	for _, bad := range []string{
		"", "first", "/projects/p1/locations/local/instances/a", "projects/p1/locations/local/instances/a/",
		"projects/p1/locations/local/instances", "projects/p1/locations/local/instance/a", "Projects/p1/locations/local/instances/a",
		"projects//locations/local/instances/a", "projects/p/locations/local/instances/a", "projects/p1/locations/-/instances/a",
		"projects/p1/locations/local/instances/", "projects/p1/locations/local/instances/A", "projects/p1/locations/local/instances/a-",
		"projects/p1/locations/local/instances/1a", "projects/p1/locations/local/instances/a_b", "projects/p1/locations/local/instances/a\n",
		"projects/p1/locations/local/instances/..", "projects/../locations/local/instances/a", "projects/p1/locations/local/instances/é",
		"projects/0123/locations/local/instances/a", "projects/a:b:cd/locations/local/instances/a",
		"projects/p1/locations/local/instances/" + long[:41], "projects/" + long + "a/locations/local/instances/a",
	} {
		_, err := instance.ParseName("the_field", bad)
		wantError(t, fmt.Sprintf("name %q", bad), err, instance.InvalidArgument, "the_field: ")
	}
	for id, ok := range map[string]bool{"a": true, "a0": true, "a-0": true, long[:40]: true, long[:41]: false, "": false, "-a": false, "a-": false, "0": false} {
		if err := instance.CheckID("id", id); (err == nil) != ok {
			t.Errorf("id %q: %v", id, err)
		}
	}
}

func TestParents(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"projects/p1/locations/local":               "p1 local",
		"projects/p1/locations/-":                   "p1 -",
		"projects/example.com:p1/locations/l1":      "example.com:p1 l1",
		"projects/-/locations/local":                "",
		"projects/p1":                               "",
		"projects/p1/locations/":                    "",
		"projects/p1/locations/local/":              "",
		"projects/p1/locations/local/instances/one": "",
		"projects/p1/regions/local":                 "",
		"projects/p1/locations/LOCAL":               "",
	} {
		p, l, err := instance.ParseParent("parent", in)
		if want == "" {
			wantError(t, "parent "+in, err, instance.InvalidArgument, "parent: ")
		} else if err != nil || p+" "+l != want {
			t.Errorf("%s: %s, %s, %v", in, p, l, err)
		}
	}
}

func TestSpecs(t *testing.T) {
	t.Parallel()
	many := make(map[string]string)
	for n := range 65 {
		many[fmt.Sprintf("l%d", n)] = ""
	}
	label := func(k, v string) func(*instance.Spec) {
		return func(s *instance.Spec) { s.Labels = map[string]string{k: v} }
	}
	for name, c := range map[string]struct {
		change func(*instance.Spec)
		field  string // that is refused; "": none
	}{
		"plain":                         {func(*instance.Spec) {}, ""},
		"largest":                       {func(s *instance.Spec) { s.MemorySizeGB = instance.MaxMemorySizeGB }, ""},
		"too large":                     {func(s *instance.Spec) { s.MemorySizeGB = instance.MaxMemorySizeGB + 1 }, "memory_size_gb"},
		"no size":                       {func(s *instance.Spec) { s.MemorySizeGB = 0 }, "memory_size_gb"},
		"negative size":                 {func(s *instance.Spec) { s.MemorySizeGB = -1 }, "memory_size_gb"},
		"longest display name":          {func(s *instance.Spec) { s.DisplayName = strings.Repeat("é", 80) }, ""},
		"too long a display name":       {func(s *instance.Spec) { s.DisplayName = strings.Repeat("é", 81) }, "display_name"},
		"display name is not UTF-8":     {func(s *instance.Spec) { s.DisplayName = "\xff" }, "display_name"},
		"label":                         {label("team_1-a", "x_y-1"), ""},
		"label in other letters":        {label("équipe", "données"), ""},
		"label without a value":         {label("a", ""), ""},
		"label's key upper-case":        {label("Team", "a"), "labels"},
		"label's key empty":             {label("", "a"), "labels"},
		"label's key too long":          {label(strings.Repeat("a", 64), "a"), "labels"},
		"label's key with a dot":        {label("a.b", "a"), "labels"},
		"label's value upper-case":      {label("a", "B"), `labels["a"]`},
		"label's value too long":        {label("a", strings.Repeat("a", 64)), `labels["a"]`},
		"label's value with a line":     {label("a", "b\n"), `labels["a"]`},
		"65 labels":                     {func(s *instance.Spec) { s.Labels = many }, "labels"},
		"zone":                          {func(s *instance.Spec) { s.LocationID = "local-z" }, ""},
		"zone elsewhere":                {func(s *instance.Spec) { s.LocationID = "mars-a" }, "location_id"},
		"zone is the location":          {func(s *instance.Spec) { s.LocationID = "local" }, "location_id"},
		"zone with rubbish":             {func(s *instance.Spec) { s.LocationID = "local-A/b" }, "location_id"},
		"second zone elsewhere":         {func(s *instance.Spec) { s.AlternativeLocationID = "mars-a" }, "alternative_location_id"},
		"version":                       {func(s *instance.Spec) { s.RedisVersion = "VALKEY_8_0" }, ""},
		"unknown version":               {func(s *instance.Spec) { s.RedisVersion = "REDIS_9_9" }, "redis_version"},
		"unknown config":                {func(s *instance.Spec) { s.RedisConfigs = map[string]string{"dir": "/"} }, `redis_configs["dir"]`},
		"config of the default version": {func(s *instance.Spec) { s.RedisConfigs = map[string]string{"lazyfree-lazy-expire": "yes"} }, ""},
		"config of another version": {func(s *instance.Spec) {
			s.RedisVersion, s.RedisConfigs = "REDIS_6_X", map[string]string{"lazyfree-lazy-expire": "yes"}
		}, `redis_configs["lazyfree-lazy-expire"]`},
		"more than the size": {func(s *instance.Spec) { s.RedisConfigs = map[string]string{"maxmemory-gb": "2"} }, `redis_configs["maxmemory-gb"]`},
	} {
		s := plainSpec()
		c.change(&s)
		_, err := s.Complete(first, "REDIS_7_0", "REDIS_6_X", "VALKEY_8_0")
		if c.field == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		wantError(t, name, err, instance.InvalidArgument, c.field+": ")
		if e, ok := err.(*instance.Error); !ok || len(e.Violations) != 1 || e.Violations[0].Field != c.field {
			t.Errorf("%s: violations %+v", name, err)
		}
	}
	s := instance.Spec{LocationID: "x", RedisVersion: "y", DisplayName: strings.Repeat("a", 81)}
	_, err := s.Complete(first, "REDIS_7_0")
	wantError(t, "all problems at once", err, instance.InvalidArgument, "redis_version", "memory_size_gb", "display_name", "location_id")
}

func TestVersionChoice(t *testing.T) {
	t.Parallel()
	installed := []string{"VALKEY_8_1", "REDIS_7_0", "REDIS_6_X"}
	for _, c := range []struct {
		asked     string
		installed []string
		want      string
		code      instance.Code
	}{
		{"", installed, "VALKEY_8_1", ""},
		{"REDIS_7_0", installed, "REDIS_7_0", ""},
		{"REDIS_6_X", installed, "REDIS_6_X", ""},
		{"REDIS_7_2", installed, "", instance.FailedPrecondition}, // known, not installed
		{"REDIS_3_2", installed, "", instance.FailedPrecondition},
		{"REDIS_9_0", installed, "", instance.InvalidArgument},
		{"7.0", installed, "", instance.InvalidArgument},
		{"redis_7_0", installed, "", instance.InvalidArgument},
		{"", nil, "", instance.FailedPrecondition},
		{"REDIS_7_0", nil, "", instance.FailedPrecondition},
	} {
		got, err := instance.ChooseVersion(c.asked, c.installed)
		if c.code != "" {
			wantError(t, "version "+c.asked, err, c.code, "redis_version")
		} else if err != nil || got != c.want {
			t.Errorf("version %q: %q, %v; want %q", c.asked, got, err, c.want)
		}
	}
}

func TestAllocate(t *testing.T) {
	t.Parallel()
	// Far from what the other tests take; the last byte is free to choose.
	base := ownPool(24).Addr().As4()
	addr := func(last byte) netip.Addr {
		return netip.AddrFrom4([4]byte{base[0], base[1], base[2], last})
	}
	pool := func(last byte, bits int) instance.Addresses {
		return instance.Addresses{Pool: netip.PrefixFrom(addr(last), bits)}
	}
	taken := func(all ...string) map[netip.AddrPort]bool {
		m := make(map[netip.AddrPort]bool)
		for _, a := range all {
			last, port, _ := strings.Cut(a, ":")
			m[netip.MustParseAddrPort(fmt.Sprintf("127.%d.%d.%s:%s", base[1], base[2], last, port))] = true
		}
		return m
	}
	busy := func(last byte, port int) {
		l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", addr(last), port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
	}
	busy(33, 6378)
	busy(50, 7000)
	ports := func(from, to uint16) instance.Addresses {
		return instance.Addresses{Host: addr(50), FirstPort: from, LastPort: to}
	}
	for _, c := range []struct {
		name  string
		from  instance.Addresses
		taken map[netip.AddrPort]bool
		tls   bool
		want  string // "": none is free
	}{
		{"the first of a network is not for hosts", pool(0, 28), nil, true, "1:6378"},
		{"without encryption", pool(0, 28), nil, false, "1:6379"},
		{"a network with bits behind its mask", pool(9, 28), nil, true, "1:6378"},
		{"the next", pool(0, 28), taken("1:6378"), true, "2:6378"},
		{"a gap", pool(0, 28), taken("1:6378", "3:6378"), true, "2:6378"},
		{"an address has one instance, whatever the port", pool(0, 28), taken("1:6379"), true, "2:6378"},
		{"the last of a network is not for hosts", pool(4, 30), taken("5:6378", "6:6378"), true, ""},
		{"a single address", pool(16, 32), nil, true, "16:6378"},
		{"a single address that is taken", pool(16, 32), taken("16:6378"), true, ""},
		{"something else listens there", pool(32, 30), nil, true, "34:6378"},
		{"something else listens there, at another port", pool(32, 30), nil, false, "33:6379"},
		{"a host with ports", ports(7100, 7101), nil, true, "50:7100"},
		{"a host with ports, encryption or not", ports(7100, 7101), nil, false, "50:7100"},
		{"the next port", ports(7100, 7101), taken("50:7100"), true, "50:7101"},
		{"no port left", ports(7100, 7101), taken("50:7100", "50:7101"), true, ""},
		{"a port that is in use", ports(7000, 7001), nil, true, "50:7001"},
		{"only a port that is in use", ports(7000, 7000), nil, true, ""},
		{"the last port there is", ports(65535, 65535), taken("50:65535"), true, ""},
		{"nothing configured", instance.Addresses{}, nil, true, ""},
	} {
		got, err := c.from.Allocate(c.taken, c.tls)
		if c.want == "" {
			wantError(t, c.name, err, instance.ResourceExhausted, "no address is free")
			continue
		}
		if want := fmt.Sprintf("127.%d.%d.%s", base[1], base[2], c.want); err != nil || got.String() != want {
			t.Errorf("%s: %v, %v; want %s", c.name, got, err, want)
		}
	}
	_, err := ports(7000, 7000).Allocate(nil, true)
	wantError(t, "in use", err, instance.ResourceExhausted, "address already in use")

	v6 := instance.Addresses{Pool: netip.MustParsePrefix("::1/128")}
	if got, err := v6.Allocate(nil, true); err != nil || got.String() != "[::1]:6378" {
		t.Errorf("IPv6: %v, %v", got, err)
	}
	// 2^64 addresses, none of them this machine's.
	_, err = instance.Addresses{Pool: netip.MustParsePrefix("2001:db8::/64")}.Allocate(nil, true)
	wantError(t, "endless pool", err, instance.ResourceExhausted, "cannot assign requested address")
}

func TestAddressesAreChecked(t *testing.T) {
	t.Parallel()
	host := netip.MustParseAddr("192.0.2.1")
	for name, c := range map[string]struct {
		a    instance.Addresses
		says []string
	}{
		"default":      {instance.DefaultAddresses(), nil},
		"host":         {instance.Addresses{Host: host, FirstPort: 6378, LastPort: 6378}, nil},
		"both":         {instance.Addresses{Host: host, FirstPort: 1, LastPort: 2, Pool: netip.MustParsePrefix("10.0.0.0/8")}, []string{"pool and host"}},
		"no ports":     {instance.Addresses{Host: host}, []string{"addresses.ports: 0-0"}},
		"ports turned": {instance.Addresses{Host: host, FirstPort: 9, LastPort: 8}, []string{"addresses.ports: 9-8"}},
		"any address":  {instance.Addresses{Host: netip.IPv4Unspecified(), FirstPort: 1, LastPort: 1}, []string{"addresses.host: 0.0.0.0"}},
		"names": {instance.Addresses{DNSNames: []string{"{instance}.example.com", "a_b.example.com", "", "1.2.3.4", "a..b", "-a.b", "*.b", strings.Repeat("a.", 127) + "b"}},
			[]string{`"a_b.example.com"`, `""`, `"1.2.3.4"`, `"a..b"`, `"-a.b"`, `"*.b"`, `"a.a.a`}},
	} {
		got := c.a.Check()
		if len(got) != len(c.says) {
			t.Errorf("%s: %q", name, got)
			continue
		}
		for at, says := range c.says {
			if !strings.Contains(got[at], says) {
				t.Errorf("%s: %q; want %s", name, got[at], says)
			}
		}
	}
	a := instance.Addresses{DNSNames: []string{"{instance}.{location}.{project}.example.com", "fixed.example.com"}}
	want := []string{"first.local.p1.example.com", "fixed.example.com"}
	if got := a.DNSNamesOf(first); !slices.Equal(got, want) {
		t.Errorf("names %q; want %q", got, want)
	}
}

func FuzzName(f *testing.F) {
	for _, s := range []string{"projects/p1/locations/local/instances/a", "projects/p1/locations/-", "projects/a.b:c1/locations/l1", "projects//locations//instances/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := instance.ParseName("f", s); err == nil {
			if n.String() != s || strings.ContainsAny(n.Project+n.Location+n.ID, "/\n\x00 \"'\\") || strings.Contains(s, "..") && !strings.Contains(n.Project, ":") {
				t.Errorf("%q is read as %+v", s, n)
			}
		}
		if p, l, err := instance.ParseParent("f", s); err == nil && "projects/"+p+"/locations/"+l != s {
			t.Errorf("%q is read as %q, %q", s, p, l)
		}
	})
}

// No value that is accepted could end its line, or a quoted word, of the engine's configuration.
func FuzzRedisConfig(f *testing.F) {
	for name, c := range configCases {
		for _, v := range slices.Concat(c.good, c.bad) {
			f.Add(name, v)
		}
	}
	f.Fuzz(func(t *testing.T, name, value string) {
		if len(instance.CheckRedisConfigs(map[string]string{name: value}, "REDIS_7_0", configSize)) != 0 {
			return
		}
		for name, value := range (instance.Spec{MemorySizeGB: configSize, RedisConfigs: map[string]string{name: value}}).Directives() {
			if strings.ContainsFunc(name+value, func(r rune) bool { return r < ' ' || r > '~' || strings.ContainsRune("\"'\\#", r) }) ||
				name != "save" && strings.Contains(value, " ") {
				t.Errorf("directive %q %q", name, value)
			}
		}
	})
}
