/* What a warm load takes through C, for `weightsd-bench clients`: acquire SOCKET MODEL COMPONENT SAMPLES. Prints an empty line
 * when everything is warm, then nanoseconds, one load a line.
 */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <weightsd.h>

static long long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static weightsd_component *load(const weightsd_connection *connection, char **arguments, uintptr_t *highest)
{
    weightsd_load_options options = WEIGHTSD_LOAD_OPTIONS;
    weightsd_component *component = NULL;
    weightsd_error *error = NULL;
    options.layout = WEIGHTSD_LAYOUT_SOURCE; /* Computing 24 GB of zeros is not what is measured. */
    if (weightsd_load(connection, arguments[2], arguments[3], &options, &component, &error) != WEIGHTSD_CODE_OK) {
        fprintf(stderr, "%s\n", error->message);
        exit(1);
    }
    for (size_t at = 0; at < weightsd_tensor_count(component); at++) {
        uintptr_t data = (uintptr_t)weightsd_tensor_at(component, at)->data;
        *highest = data > *highest ? data : *highest;
    }
    return component;
}

int main(int count, char **arguments)
{
    weightsd_connect_options options = WEIGHTSD_CONNECT_OPTIONS;
    weightsd_connection *connection = NULL;
    uintptr_t highest = 0;
    if (count != 5)
        return 2;
    options.socket = arguments[1];
    if (weightsd_connect(&options, &connection, NULL) != WEIGHTSD_CODE_OK)
        return 1;
    size_t samples = strtoul(arguments[4], NULL, 10);
    weightsd_component *held = load(connection, arguments, &highest);
    for (size_t at = 0; at < samples / 10; at++)
        weightsd_component_free(load(connection, arguments, &highest));
    printf("\n");
    for (size_t at = 0; at < samples; at++) {
        long long begun = now();
        weightsd_component_free(load(connection, arguments, &highest));
        printf("%lld\n", now() - begun);
    }
    weightsd_component_free(held);
    weightsd_disconnect(connection);
    return highest == 0;
}
