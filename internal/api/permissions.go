package api

import (
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/sealane/sealane/internal/access"
	"github.com/sealane/sealane/internal/authz"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/rest"
)

// rules has a row for each method. A method without one is refused, and TestEveryMethodHasAPermission fails.
var rules = withBeta(map[string]authz.Rule{
	redisV1 + "ListInstances":         {Permission: access.InstancesList, Field: "parent", Kind: authz.Location, Within: true},
	redisV1 + "GetInstance":           {Permission: access.InstancesGet, Field: "name"},
	redisV1 + "GetInstanceAuthString": {Permission: access.InstancesGetAuthString, Field: "name", Effect: authz.Secret},
	redisV1 + "CreateInstance":        {Permission: access.InstancesCreate, Field: "parent", Kind: authz.Location, Effect: authz.Changes, Also: authOfCreate, ID: "instance_id"},
	redisV1 + "UpdateInstance":        {Permission: access.InstancesUpdate, Field: "instance.name", Effect: authz.Changes, Also: authOfUpdate},
	redisV1 + "UpgradeInstance":       {Permission: access.InstancesUpgrade, Field: "name", Effect: authz.Changes},
	redisV1 + "ImportInstance":        {Permission: access.InstancesImport, Field: "name", Effect: authz.Changes},
	redisV1 + "ExportInstance":        {Permission: access.InstancesExport, Field: "name", Effect: authz.Changes},
	redisV1 + "FailoverInstance":      {Permission: access.InstancesFailover, Field: "name", Effect: authz.Changes},
	redisV1 + "DeleteInstance":        {Permission: access.InstancesDelete, Field: "name", Effect: authz.Changes},
	redisV1 + "RescheduleMaintenance": {Permission: access.InstancesRescheduleMaintenance, Field: "name", Effect: authz.Changes},

	"google.longrunning.Operations/ListOperations":  {Permission: access.OperationsList, Field: "name", Kind: authz.Location, Within: true},
	"google.longrunning.Operations/GetOperation":    {Permission: access.OperationsGet, Field: "name", Kind: authz.Operation, Within: true},
	"google.longrunning.Operations/WaitOperation":   {Permission: access.OperationsGet, Field: "name", Kind: authz.Operation, Within: true},
	"google.longrunning.Operations/CancelOperation": {Permission: access.OperationsCancel, Field: "name", Kind: authz.Operation, Within: true, Effect: authz.Changes},
	"google.longrunning.Operations/DeleteOperation": {Permission: access.OperationsDelete, Field: "name", Kind: authz.Operation, Within: true, Effect: authz.Changes},
	"google.cloud.location.Locations/ListLocations": {Permission: access.LocationsList, Field: "name", Kind: authz.Project, Within: true},
	"google.cloud.location.Locations/GetLocation":   {Permission: access.LocationsGet, Field: "name", Kind: authz.Location, Within: true},

	// A backend is reached with the server's own network and files, and with a password that is never shown. So whoever names one must
	// have the permission for everything: within a project it would be a way to the Redis of another one.
	"sealane.v1.Backends/CreateInstance":                 {Permission: access.InstancesCreate, Field: "parent", Kind: authz.Location, Effect: authz.Changes, Also: authOfCreate, ID: "instance_id", Everywhere: access.BackendsUpdate},
	"sealane.v1.Backends/GetBackend":                     {Permission: access.BackendsGet, Field: "name"},
	"sealane.v1.Backends/UpdateBackend":                  {Permission: access.BackendsUpdate, Field: "backend.name", Effect: authz.Changes, Everywhere: access.BackendsUpdate},
	"sealane.v1.DataPlanes/GetDataPlane":                 {Permission: access.DataPlanesGet, Field: "name"},
	"sealane.v1.DataPlanes/UpdateDataPlane":              {Permission: access.DataPlanesUpdate, Field: "data_plane.name", Effect: authz.Changes},
	"sealane.v1.Engines/GetEngine":                       {Permission: access.EnginesGet, Field: "name"},
	"sealane.v1.Engines/RestartEngine":                   {Permission: access.EnginesRestart, Field: "name", Effect: authz.Changes},
	"sealane.v1.AuthStrings/RotateAuthString":            {Permission: access.InstancesUpdateAuth, Field: "name", Effect: authz.Changes},
	"sealane.v1.Certificates/GetCertificates":            {Permission: access.CertificatesGet, Field: "name"},
	"sealane.v1.Certificates/ListClients":                {Permission: access.ClientsList, Field: "name"},
	"sealane.v1.Certificates/RotateCa":                   {Permission: access.CertificatesRotate, Field: "name", Effect: authz.Changes},
	"sealane.v1.Certificates/RotateLeaf":                 {Permission: access.CertificatesRotate, Field: "name", Effect: authz.Changes},
	"sealane.v1.Certificates/ActivateCa":                 {Permission: access.CertificatesActivate, Field: "name", Effect: authz.Changes},
	"sealane.v1.Certificates/RetireCa":                   {Permission: access.CertificatesRetire, Field: "name", Effect: authz.Changes},
	"sealane.v1.Certificates/CompromiseCa":               {Permission: access.CertificatesCompromise, Field: "name", Effect: authz.Changes},
	"sealane.v1.Certificates/SetSampling":                {Permission: access.CertificatesUpdate, Field: "name", Effect: authz.Changes},
	"sealane.v1.TransitEncryptions/GetTransitEncryption": {Permission: access.TransitEncryptionsGet, Field: "name"},
	"sealane.v1.TransitEncryptions/ListPlaintextClients": {Permission: access.ClientsList, Field: "name"},
	"sealane.v1.TransitEncryptions/PreferTls":            {Permission: access.TransitEncryptionsUpdate, Field: "name", Effect: authz.Changes},
	"sealane.v1.TransitEncryptions/EnforceTls":           {Permission: access.TransitEncryptionsUpdate, Field: "name", Effect: authz.Changes},
	"sealane.v1.TransitEncryptions/RollbackTls":          {Permission: access.TransitEncryptionsUpdate, Field: "name", Effect: authz.Changes},
	"sealane.v1.TransitEncryptions/DisableTls":           {Permission: access.TransitEncryptionsUpdate, Field: "name", Effect: authz.Changes},
	"sealane.v1.Tokens/CreateToken":                      {Permission: access.TokensCreate, Within: true, Effect: authz.Changes},
	"sealane.v1.Tokens/GetToken":                         {Permission: access.TokensGet, Within: true},
	"sealane.v1.Tokens/ListTokens":                       {Permission: access.TokensList, Within: true},
	"sealane.v1.Tokens/RevokeToken":                      {Permission: access.TokensRevoke, Within: true, Effect: authz.Revokes},
	"sealane.v1.Persistences/GetPersistence":             {Permission: access.PersistencesGet, Field: "name"},
	"sealane.v1.Replications/GetReplication":             {Permission: access.ReplicationsGet, Field: "name"},
	"sealane.v1.Persistences/ListSnapshots":              {Permission: access.PersistencesGet, Field: "parent"},
})

const redisV1 = "google.cloud.redis.v1.CloudRedis/"

// withBeta adds v1beta1, which has the same methods.
func withBeta(rules map[string]authz.Rule) map[string]authz.Rule {
	for method, r := range rules {
		if name, ok := strings.CutPrefix(method, redisV1); ok {
			rules["google.cloud.redis.v1beta1.CloudRedis/"+name] = r
		}
	}
	return rules
}

// authOfUpdate is for an update that switches AUTH on or off, which lets clients in or out.
func authOfUpdate(request proto.Message) []access.Permission {
	r := request.ProtoReflect()
	mask := r.Get(r.Descriptor().Fields().ByName("update_mask")).Message()
	paths := mask.Get(mask.Descriptor().Fields().ByName("paths")).List()
	for n := range paths.Len() {
		if path := rest.SnakeCase(paths.Get(n).String()); path == "auth_enabled" || path == "*" {
			return []access.Permission{access.InstancesUpdateAuth}
		}
	}
	return nil
}

// authOfCreate is for a create with AUTH.
func authOfCreate(request proto.Message) []access.Permission {
	r := request.ProtoReflect()
	in := r.Get(r.Descriptor().Fields().ByName("instance")).Message()
	if in.Get(in.Descriptor().Fields().ByName("auth_enabled")).Bool() {
		return []access.Permission{access.InstancesUpdateAuth}
	}
	return nil
}

// instanceScope is where an instance is.
func instanceScope(n instance.Name) access.Scope {
	return access.Scope{Project: n.Project, Location: n.Location, Instance: n.ID}
}
