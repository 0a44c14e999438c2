// Command check renders the kustomizations that it is given and does with every object what the API server does when it is
// created: it is decoded strictly (an unknown or repeated field is an error), given its defaults, converted to the server's
// own types and validated by the server's own code. Pods must meet the Pod Security Standard "restricted", a selector must
// choose the pods that are made for it, and what a pod refers to by name must be among the objects, but for secrets.
//
//	go run . ../base ../example
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/apps"
	appsvalidation "k8s.io/kubernetes/pkg/apis/apps/validation"
	"k8s.io/kubernetes/pkg/apis/autoscaling"
	autoscalingvalidation "k8s.io/kubernetes/pkg/apis/autoscaling/validation"
	"k8s.io/kubernetes/pkg/apis/core"
	corevalidation "k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/kubernetes/pkg/apis/networking"
	networkingvalidation "k8s.io/kubernetes/pkg/apis/networking/validation"
	"k8s.io/kubernetes/pkg/apis/policy"
	policyvalidation "k8s.io/kubernetes/pkg/apis/policy/validation"
	"k8s.io/pod-security-admission/api"
	podsecurity "k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	_ "k8s.io/kubernetes/pkg/apis/autoscaling/install"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	_ "k8s.io/kubernetes/pkg/apis/networking/install"
	_ "k8s.io/kubernetes/pkg/apis/policy/install"
)

func main() {
	failed := false
	for _, folder := range os.Args[1:] {
		found, problems, err := check(folder)
		if err != nil {
			problems = append(problems, err.Error())
		}
		for _, problem := range problems {
			fmt.Fprintf(os.Stderr, "%s: %s\n", folder, problem)
		}
		failed = failed || len(problems) > 0
		fmt.Printf("%s: %d objects, %d problems\n", folder, found, len(problems))
	}
	if failed || len(os.Args) < 2 {
		os.Exit(1)
	}
}

// check returns how many objects folder renders to, and what is wrong with them.
func check(folder string) (int, []string, error) {
	rendered, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), folder)
	if err != nil {
		return 0, nil, err
	}
	text, err := rendered.AsYaml()
	if err != nil {
		return 0, nil, err
	}
	strict := serializer.NewCodecFactory(legacyscheme.Scheme, serializer.EnableStrict)
	documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	var objects []runtime.Object
	var problems []string
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, nil, err
		}
		object, _, err := strict.UniversalDeserializer().Decode(document, nil, nil)
		if err != nil {
			problems = append(problems, err.Error())
			continue
		}
		legacyscheme.Scheme.Default(object)
		objects = append(objects, object)
		problems = append(problems, validate(object)...)
	}
	return len(objects), append(problems, together(objects)...), nil
}

// validate does what the server does with one object.
func validate(object runtime.Object) []string {
	name := nameOf(object)
	internal, err := legacyscheme.Scheme.ConvertToVersion(object, runtime.InternalGroupVersioner)
	if err != nil {
		return []string{fmt.Sprintf("%s: %v", name, err)}
	}
	var found field.ErrorList
	pods := corevalidation.PodValidationOptions{}
	switch object := internal.(type) {
	case *apps.StatefulSet:
		found = appsvalidation.ValidateStatefulSet(object, pods)
	case *apps.Deployment:
		found = appsvalidation.ValidateDeployment(object, pods)
	case *core.Service:
		// As the server does before it validates.
		if object.Spec.ClusterIP != "" {
			object.Spec.ClusterIPs = []string{object.Spec.ClusterIP}
		}
		found = corevalidation.ValidateServiceCreate(object)
	case *core.ConfigMap:
		found = corevalidation.ValidateConfigMap(object)
	case *core.ServiceAccount:
		found = corevalidation.ValidateServiceAccount(object)
	case *core.Namespace:
		found = corevalidation.ValidateNamespace(object)
	case *policy.PodDisruptionBudget:
		found = policyvalidation.ValidatePodDisruptionBudget(object, policyvalidation.PodDisruptionBudgetValidationOptions{})
	case *autoscaling.HorizontalPodAutoscaler:
		found = autoscalingvalidation.ValidateHorizontalPodAutoscaler(object, autoscalingvalidation.HorizontalPodAutoscalerSpecValidationOptions{MinReplicasLowerBound: 1})
	case *networking.NetworkPolicy:
		found = networkingvalidation.ValidateNetworkPolicy(object, networkingvalidation.NetworkPolicyValidationOptions{})
	default:
		return []string{fmt.Sprintf("%s: nothing here knows how to validate it", name)}
	}
	var problems []string
	for _, problem := range found {
		problems = append(problems, fmt.Sprintf("%s: %v", name, problem))
	}
	return problems
}

// together checks what no object can say alone.
func together(objects []runtime.Object) []string {
	var problems []string
	complain := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	names := map[string]bool{}
	made := map[string]corev1.PodTemplateSpec{}
	for _, object := range objects {
		names[nameOf(object)] = true
		switch object := object.(type) {
		case *appsv1.StatefulSet:
			made[nameOf(object)] = object.Spec.Template
		case *appsv1.Deployment:
			made[nameOf(object)] = object.Spec.Template
		}
	}
	owners := make([]string, 0, len(made))
	for owner := range made {
		owners = append(owners, owner)
	}
	sort.Strings(owners)
	evaluator, err := podsecurity.NewEvaluator(podsecurity.DefaultChecks(), nil)
	if err != nil {
		return []string{err.Error()}
	}
	restricted := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	for _, owner := range owners {
		template := made[owner]
		for _, result := range evaluator.EvaluatePod(restricted, &template.ObjectMeta, &template.Spec) {
			if !result.Allowed {
				complain("%s: not restricted: %s: %s", owner, result.ForbiddenReason, result.ForbiddenDetail)
			}
		}
		for _, port := range probed(&template.Spec) {
			if !slices.Contains(named(&template.Spec), port) {
				complain("%s: probes port %q, which is not there", owner, port)
			}
		}
		for _, reference := range references(&template.Spec) {
			if !names[reference] {
				complain("%s: refers to %s, which is not there", owner, reference)
			}
		}
	}
	chosen := func(by string, selector labels.Selector) {
		for _, owner := range owners {
			if selector.Matches(labels.Set(made[owner].Labels)) {
				return
			}
		}
		complain("%s: chooses no pods", by)
	}
	for _, object := range objects {
		name := nameOf(object)
		by := func(selector *metav1.LabelSelector) {
			if parsed, err := metav1.LabelSelectorAsSelector(selector); err != nil {
				complain("%s: %v", name, err)
			} else {
				chosen(name, parsed)
			}
		}
		switch object := object.(type) {
		case *corev1.Service:
			selector := labels.SelectorFromSet(object.Spec.Selector)
			chosen(name, selector)
			for _, owner := range owners {
				template := made[owner]
				for _, port := range object.Spec.Ports {
					if selector.Matches(labels.Set(template.Labels)) && !slices.Contains(named(&template.Spec), port.TargetPort.StrVal) {
						complain("%s: port %q is not one of %s", name, port.TargetPort.StrVal, owner)
					}
				}
			}
		case *policyv1.PodDisruptionBudget:
			by(object.Spec.Selector)
		case *networkingv1.NetworkPolicy:
			by(&object.Spec.PodSelector)
		case *appsv1.StatefulSet:
			if service := "Service/" + object.Spec.ServiceName; !names[service] {
				complain("%s: refers to %s, which is not there", name, service)
			}
		}
	}
	return problems
}

// named are the names of ports.
func named(pod *corev1.PodSpec) []string {
	var names []string
	for _, container := range pod.Containers {
		for _, port := range container.Ports {
			names = append(names, port.Name)
		}
	}
	return names
}

// probed are the names of the ports that are asked whether the pod lives.
func probed(pod *corev1.PodSpec) []string {
	var names []string
	for _, container := range pod.Containers {
		for _, probe := range []*corev1.Probe{container.StartupProbe, container.LivenessProbe, container.ReadinessProbe} {
			if probe == nil || probe.HTTPGet == nil {
				names = append(names, "(none)")
				continue
			}
			names = append(names, probe.HTTPGet.Port.StrVal)
		}
	}
	return names
}

// references are the objects that a pod needs, but for secrets, which are not kept among files.
func references(pod *corev1.PodSpec) []string {
	found := []string{"ServiceAccount/" + pod.ServiceAccountName}
	for _, volume := range pod.Volumes {
		if volume.ConfigMap != nil {
			found = append(found, "ConfigMap/"+volume.ConfigMap.Name)
		}
	}
	for _, container := range pod.Containers {
		for _, from := range container.EnvFrom {
			if from.ConfigMapRef != nil {
				found = append(found, "ConfigMap/"+from.ConfigMapRef.Name)
			}
		}
	}
	return found
}

func nameOf(object runtime.Object) string {
	kind := object.GetObjectKind().GroupVersionKind().Kind
	if named, ok := object.(metav1.Object); ok {
		return kind + "/" + named.GetName()
	}
	return kind
}
