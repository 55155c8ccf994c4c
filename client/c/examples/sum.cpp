// Loads a component, sums its first float tensor and follows notices: sum MODEL COMPONENT
//
//     c++ -std=c++17 sum.cpp $(pkg-config --cflags --libs weightsd) -o sum
#include <cstring>
#include <iostream>

#include <weightsd.hpp>

// The element `index` of a tensor of BF16 or F32. Tensors may begin anywhere, so bytes are copied.
static float element(const weightsd_tensor &tensor, std::size_t index) {
    std::uint32_t bits = 0;
    const auto *bytes = static_cast<const char *>(tensor.data);
    if (tensor.dtype == WEIGHTSD_DTYPE_BF16) {
        std::uint16_t half = 0;
        std::memcpy(&half, bytes + 2 * index, sizeof half);
        bits = std::uint32_t{half} << 16;
    } else {
        std::memcpy(&bits, bytes + 4 * index, sizeof bits);
    }
    float value = 0;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

int main(int count, char **arguments) {
    if (count != 3) {
        std::cerr << "usage: sum MODEL COMPONENT\n";
        return 2;
    }
    try {
        weightsd::Connection connection;
        weightsd::Request request(arguments[1], arguments[2]);
        request.on_progress = [](const weightsd_progress &progress) {
            std::cerr << "phase " << progress.phase << ", " << progress.file << '\n';
            return true;
        };
        const weightsd::Component component = connection.load(request);
        for (std::size_t at = 0; at < component.size(); at++) {
            const weightsd_tensor &tensor = component[at];
            if (tensor.dtype == WEIGHTSD_DTYPE_BF16 || tensor.dtype == WEIGHTSD_DTYPE_F32) {
                const std::size_t elements = tensor.length / (tensor.dtype == WEIGHTSD_DTYPE_BF16 ? 2 : 4);
                double sum = 0;
                for (std::size_t index = 0; index < elements; index++) {
                    sum += element(tensor, index);
                }
                std::cout << tensor.name << ' ' << tensor.dtype_name << ' ' << sum << std::endl;
                break;
            }
        }
        // Until the lease is released or lost.
        while (const auto notice = component.next_notice()) {
            std::cout << "notice " << notice->kind << ": " << notice->message << std::endl;
        }
    } catch (const weightsd::Error &error) {
        std::cerr << error.what() << '\n';
        if (!error.hint.empty()) {
            std::cerr << "hint: " << error.hint << '\n';
        }
        return 1;
    }
}
