// Parcels as bytes, as the spool of a collecting daemon keeps them.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "uring/service/logs/parcel.h"

namespace virtproxy {

// `vm` stands for its number, which is another one with another configuration. Where it arrived on
// this process's clock and who waits for its release are left out.
std::string encode_parcel(const Parcel& parcel, std::string_view vm);

struct DecodedParcel {
  std::string vm;
  std::shared_ptr<Parcel> parcel;  // without a number for its VM
};

// Nothing if the bytes are none that encode_parcel() makes.
std::optional<DecodedParcel> decode_parcel(std::string_view bytes);

}  // namespace virtproxy
