// Checks docker-compose.yml without a container engine: `go run . ROOT`.
//
// The file is loaded as Docker Compose loads it (strictly: unknown keys, wrong types, missing services, networks, volumes and
// secrets are errors), once for each profile, and then held against the rules that docs/DEPLOYMENT.md promises and against
// `scripts/stack topology`, which runs the same without containers. Prints every finding; exit code 1 if there is one.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go run . ROOT   where ROOT is the directory of docker-compose.yml")
		os.Exit(2)
	}
	root, err := filepath.Abs(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	text, err := os.ReadFile(filepath.Join(root, "docker-compose.yml"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	said, err := exec.Command(filepath.Join(root, "scripts", "stack"), "topology").Output()
	findings := check(root, string(text), string(said))
	if err != nil {
		findings = append(findings, fmt.Sprintf("scripts/stack topology: %v", err))
	}
	sort.Strings(findings)
	for _, finding := range findings {
		fmt.Println("docker-compose.yml: " + finding)
	}
	if len(findings) > 0 {
		os.Exit(1)
	}
	fmt.Println("docker-compose.yml: in order, with the profiles " + strings.Join(profiles, " and "))
}
