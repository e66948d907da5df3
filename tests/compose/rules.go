package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/dotenv"
	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
)

var profiles = []string{"demo", "external"}

// Services without a health check of their own: those that end.
var withoutHealth = []string{"topics", "bucket"}

// What each profile starts.
var started = map[string][]string{
	"demo":     {"bucket", "generator", "grafana", "influxdb", "kafka", "nginx", "shipper", "tidewatch-0", "tidewatch-1", "topics"},
	"external": {"grafana", "tidewatch-0", "tidewatch-1"},
}

// A version of at least two numbers: 12.4 is pinned enough to be looked up, `latest` and `3` are not.
var pinned = regexp.MustCompile(`:v?[0-9]+\.[0-9]+(\.[0-9]+)*([-.][A-Za-z0-9.]+)*(@sha256:[0-9a-f]{64})?$`)

// load reads the file as Docker Compose does.
func load(root, text, profile string, environment map[string]string) (*types.Project, error) {
	details := types.ConfigDetails{
		WorkingDir:  root,
		Environment: environment,
		ConfigFiles: []types.ConfigFile{{Filename: filepath.Join(root, "docker-compose.yml"), Content: []byte(text)}},
	}
	return loader.LoadWithContext(context.Background(), details, func(options *loader.Options) {
		options.SetProjectName("tidewatch", true)
		options.Profiles = []string{profile}
	})
}

// check returns every finding about the file's text. `said` is what `scripts/stack topology` printed.
func check(root, text, said string) []string {
	var findings []string
	find := func(format string, values ...any) { findings = append(findings, fmt.Sprintf(format, values...)) }
	example, err := dotenv.Read(filepath.Join(root, ".env.example"))
	if err != nil {
		find(".env.example: %v", err)
	}
	for _, profile := range profiles {
		project, err := load(root, text, profile, nil)
		if err != nil {
			find("profile %s: %v", profile, err)
			continue
		}
		if got := project.ServiceNames(); !slices.Equal(got, started[profile]) {
			find("profile %s starts %v, expected %v", profile, got, started[profile])
		}
		builds := map[string][]string{}
		for _, service := range project.Services {
			hardened(root, service, find)
			if service.Build != nil {
				builds[service.Image] = append(builds[service.Image], service.Name)
			}
		}
		for image, by := range builds {
			if len(by) > 1 {
				slices.Sort(by)
				find("%s is built by %v at once; leave build to one of them", image, by)
			}
		}
		for _, service := range project.Services {
			if strings.HasPrefix(service.Image, "tidewatch:") && builds[service.Image] == nil {
				find("profile %s: nobody builds %s", profile, service.Image)
			}
		}
		same, err := load(root, text, profile, example)
		if err != nil {
			find("profile %s with .env.example: %v", profile, err)
		} else if a, b := yaml(project), yaml(same); a != b {
			find("profile %s: .env.example changes it; its lines are to be the defaults", profile)
		}
		if profile == "demo" {
			topology(root, project, said, find)
		}
	}
	delete(example, "COMPOSE_PROJECT_NAME") // the loader adds it
	for name := range example {
		if name != "COMPOSE_PROFILES" && !strings.Contains(text, "${"+name) {
			find(".env.example: %s is used nowhere", name)
		}
	}
	for _, match := range regexp.MustCompile(`\$\{([A-Z_]+)`).FindAllStringSubmatch(text, -1) {
		if _, ok := example[match[1]]; !ok {
			find("${%s} is not in .env.example", match[1])
		}
	}
	slices.Sort(findings)
	return slices.Compact(findings)
}

func yaml(project *types.Project) string {
	text, err := project.MarshalYAML()
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// hardened holds a service against what every service promises.
func hardened(root string, service types.ServiceConfig, find func(string, ...any)) {
	say := func(words string, values ...any) { find("%s: %s", service.Name, fmt.Sprintf(words, values...)) }
	if !pinned.MatchString(service.Image) {
		say("image %q has no version", service.Image)
	}
	if user, _, _ := strings.Cut(service.User, ":"); user == "" || user == "0" || user == "root" {
		say("runs as root: user is %q", service.User)
	}
	if !service.ReadOnly {
		say("its file system can be written: read_only is missing")
	}
	if !slices.Equal(service.CapDrop, []string{"ALL"}) || len(service.CapAdd) > 0 || service.Privileged {
		say("keeps capabilities: cap_drop is %v, cap_add %v", service.CapDrop, service.CapAdd)
	}
	if !slices.Contains(service.SecurityOpt, "no-new-privileges:true") {
		say("no-new-privileges is missing")
	}
	if service.MemLimit <= 0 {
		say("mem_limit is missing")
	}
	if service.PidsLimit <= 0 {
		say("pids_limit is missing")
	}
	if service.Restart == "" || service.Restart == "no" && !slices.Contains([]string{"topics", "bucket"}, service.Name) {
		say("restart is %q", service.Restart)
	}
	if len(service.Networks) == 0 || service.NetworkMode != "" {
		say("is not on a network of its own")
	}
	healthy := service.HealthCheck != nil && !service.HealthCheck.Disable && len(service.HealthCheck.Test) > 1
	if healthy == slices.Contains(withoutHealth, service.Name) {
		say("health check: is there %v", healthy)
	}
	for _, port := range service.Ports {
		if port.HostIP != "127.0.0.1" {
			say("port %s is published at %q, not on 127.0.0.1", port.Published, port.HostIP)
		}
	}
	for name, value := range service.Environment {
		secret := regexp.MustCompile(`TOKEN|PASSWORD|SECRET`).MatchString(name) && !strings.HasSuffix(name, "_FILE")
		if secret && value != nil && *value != "" {
			say("%s stands in the environment; give it as a secret's file", name)
		}
	}
	for _, volume := range service.Volumes {
		if volume.Type != types.VolumeTypeBind {
			continue
		}
		if !volume.ReadOnly {
			say("%s can be written from inside", volume.Target)
		}
		if _, err := os.Stat(volume.Source); err != nil {
			relative, _ := filepath.Rel(root, volume.Source)
			say("mounts %s, which is not there", relative)
		}
	}
	// Java loads native libraries from files that it makes in /tmp, where a tmpfs is noexec unless it says otherwise.
	if strings.HasPrefix(service.Image, "apache/kafka:") {
		loads := func(mount string) bool { return strings.HasPrefix(mount, "/tmp:") && strings.Contains(mount+",", ",exec,") }
		if !slices.ContainsFunc(service.Tmpfs, loads) {
			say("cannot load zstd and snappy: /tmp is not mounted with exec")
		}
	}
	for _, secret := range service.Secrets {
		if secret.Target != "" && !strings.HasPrefix(secret.Target, "/run/secrets/") {
			say("secret %s lies at %s", secret.Source, secret.Target)
		}
	}
}
