package instance

import (
	"regexp"
	"strings"

	"github.com/sealane/sealane/internal/pki"
)

// Name is where an instance is: projects/P/locations/L/instances/ID.
type Name struct {
	Project  string
	Location string
	ID       string
}

// String is the full resource name.
func (n Name) String() string {
	return "projects/" + n.Project + "/locations/" + n.Location + "/instances/" + n.ID
}

var (
	// A project is an id (GCP's rule), a domain-scoped id "example.com:id", or a number.
	projectPattern  = regexp.MustCompile(`^([a-z][a-z0-9.-]{0,61}:)?[a-z][a-z0-9-]{0,61}[a-z0-9]$|^[1-9][0-9]{0,18}$`)
	locationPattern = regexp.MustCompile(`^[a-z][a-z0-9-]{0,61}[a-z0-9]$`)
	idPattern       = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$`)
)

// ParseName reads a full resource name. field says what to call it in an error.
func ParseName(field, s string) (Name, error) {
	p := strings.Split(s, "/")
	if len(p) != 6 || p[0] != "projects" || p[2] != "locations" || p[4] != "instances" {
		return Name{}, invalid(field, "%q is not the name of an instance: want projects/PROJECT/locations/LOCATION/instances/ID", s)
	}
	if err := CheckParent(field, p[1], p[3]); err != nil {
		return Name{}, err
	}
	if err := checkID(field, p[5]); err != nil {
		return Name{}, err
	}
	return Name{p[1], p[3], p[5]}, nil
}

// ParseParent reads projects/P/locations/L. The location may be "-", which stands for all of them.
func ParseParent(field, s string) (project, location string, err error) {
	p := strings.Split(s, "/")
	if len(p) != 4 || p[0] != "projects" || p[2] != "locations" {
		return "", "", invalid(field, "%q is not a location: want projects/PROJECT/locations/LOCATION", s)
	}
	if p[3] == "-" {
		return p[1], p[3], CheckParent(field, p[1], "all")
	}
	return p[1], p[3], CheckParent(field, p[1], p[3])
}

// CheckParent checks the form of a project and a location.
func CheckParent(field, project, location string) error {
	if !projectPattern.MatchString(project) {
		return invalid(field, "project %q: want 2 to 63 lower-case letters, digits and hyphens, a letter first, no hyphen last", project)
	}
	if !locationPattern.MatchString(location) {
		return invalid(field, "location %q: want 2 to 63 lower-case letters, digits and hyphens, a letter first, no hyphen last", location)
	}
	return nil
}

func checkID(field, id string) error {
	if !idPattern.MatchString(id) {
		return invalid(field, "%q: want 1 to 40 lower-case letters, digits and hyphens, a letter first, no hyphen last", id)
	}
	return nil
}

// identity is the URI that the instance's certificate carries.
func (n Name) identity() string { return pki.Identity(n.Project, n.Location, n.ID) }
