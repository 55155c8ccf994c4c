/* Prints how each tensor's layer is stored: coding SOCKET MODEL. Apart from check.c, which the first header compiles too. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <weightsd.h>

static void fail(const weightsd_error *error)
{
    fprintf(stderr, "coding.c: %s (%s)\n", error->message, error->hint);
    exit(1);
}

static void print_sides(const uint64_t *sides, size_t rank)
{
    for (size_t at = 0; at < rank; at++)
        printf("%s%" PRIu64, at > 0 ? "x" : " ", sides[at]);
    if (rank == 0)
        printf(" -");
}

int main(int count, char **arguments)
{
    weightsd_connect_options options = WEIGHTSD_CONNECT_OPTIONS;
    weightsd_load_options load = WEIGHTSD_LOAD_OPTIONS;
    weightsd_connection *connection = NULL;
    weightsd_component *component = NULL;
    weightsd_error *error = NULL;
    if (count != 3)
        return 2;
    options.socket = arguments[1];
    load.layout = WEIGHTSD_LAYOUT_SOURCE;
    if (weightsd_connect(&options, &connection, &error) != WEIGHTSD_CODE_OK)
        fail(error);
    if (weightsd_load(connection, arguments[2], "model", &load, &component, &error) != WEIGHTSD_CODE_OK)
        fail(error);
    weightsd_disconnect(connection);
    for (size_t at = 0; at < weightsd_tensor_count(component); at++) {
        const weightsd_tensor *tensor = weightsd_tensor_at(component, at);
        const weightsd_coding *coding = tensor->coding;
        printf("%s:", tensor->name);
        if (coding != NULL) {
            printf(" %s, %s, %s, %d, %" PRIu64, coding->format, coding->codes, coding->provenance, (int)coding->role,
                   coding->rotation);
            print_sides(coding->block, coding->block_rank);
            print_sides(coding->shape, coding->rank);
        }
        printf("\n");
    }
    weightsd_component_free(component);
    return 0;
}
