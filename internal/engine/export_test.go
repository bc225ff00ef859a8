package engine

var (
	InstallHint  = installHint
	ParseVersion = parseVersion
	Render       = render

	ParseReplication = parseReplication
)

const MaxLog = maxLog

// Call runs one command as the control plane's user.
var Call = (*Engine).call
